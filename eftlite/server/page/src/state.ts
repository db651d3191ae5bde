/** What the page shows, as signals. Changed by conversations.ts and answering.ts, read by the views. */

import { computed, type Signal, signal } from "@preact/signals";
import { ApiError } from "./api";
import { stored } from "./stored";
import { type Turn, turnsOf } from "./tree";
import type { About, AnswerId, Conversation, ConversationId, Engine, MessageId, Mode, Summary, Token } from "./types";

/** An answer that is being written. */
export interface Live {
  answerId: AnswerId;
  mode: Mode;
  text: Signal<string>;
  tokens: Signal<Token[]>;
}

/** What was asked in a conversation and is not finished. */
export interface Run {
  abort: AbortController;
  modes: Mode[];
  /** Answers by mode, from the moment they have an id. */
  messages: Map<Mode, MessageId>;
  stopping: boolean;
}

export const about = signal<About | Engine | null>(null);
/** False while the server cannot be reached. */
export const reachable = signal(true);
export const summaries = signal<Summary[]>([]);
export const moreSummaries = signal(false);
export const query = signal("");
/** The open conversation; null is a new one that nothing was said in. */
export const current = signal<Conversation | null>(null);
/** A new conversation's system prompt. */
export const newSystem = signal("");
/** Answers being written, by message id. */
export const live = signal<ReadonlyMap<MessageId, Live>>(new Map());
/** Runs by conversation's id. */
export const runs = signal<ReadonlyMap<ConversationId, Run>>(new Map());
/** What was just sent and is not saved yet. */
export const pending = signal<{ conversation: ConversationId; parent: MessageId | null; content: string } | null>(null);
export const notice = signal<string | null>(null);

export const why = stored("why", false);
export const compare = stored("compare", false);
export const theme = stored<"auto" | "light" | "dark">("theme", "auto");

export const turns = computed<Turn[]>(() => (current.value ? turnsOf(current.value.messages, current.value.leaf) : []));
export const run = computed<Run | null>(() => (current.value && runs.value.get(current.value.id)) ?? null);
/** The models, once they were loaded. */
export const engine = computed<Engine | null>(() => (about.value && "members" in about.value ? about.value : null));
export const deltas = computed(() => engine.value?.deltas ?? []);

/** A signal's map with one entry set, or taken out when the value is undefined. */
export function put<K, V>(target: Signal<ReadonlyMap<K, V>>, key: K, value: V | undefined): void {
  const next = new Map(target.value);
  if (value === undefined) next.delete(key);
  else next.set(key, value);
  target.value = next;
}

/** Tell a person that something went wrong. A server that is away is told of where its state stands. */
export function complain(error: unknown): void {
  if (error instanceof ApiError && error.status === 0) reachable.value = false;
  else notice.value = error instanceof Error ? error.message : String(error);
}
