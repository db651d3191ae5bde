/** Asking for answers, changing them while they are written, stopping them. */

import { effect } from "@preact/signals";
import * as api from "./api";
import { ensure } from "./conversations";
import { follow } from "./follow";
import { knobValues, samplingValues } from "./knobs";
import { compare, complain, current, engine, live, pending, run, turns } from "./state";
import type { AnswerRequest, Message, MessageId, Mode } from "./types";

/** Candidates of each member that come with every token. */
const N_TOP = 5;
const KNOB_MS = 120;
/** How long a stop may take before the connection is closed instead. */
const STOP_MS = 3000;

const COLUMNS: Mode[] = ["base", "tuned", "eft"];

/** Who answers next. */
function modes(): Mode[] {
  const known = engine.value?.modes ?? ["eft"];
  if (!known.includes("eft")) return known.slice(0, 1);
  return compare.value ? COLUMNS.filter((mode) => known.includes(mode)) : ["eft"];
}

function requestFor(parent: MessageId | null, content?: string): AnswerRequest {
  const asked = modes();
  const body: AnswerRequest = { parent, modes: asked, sampling: samplingValues(), n_top: N_TOP };
  if (content !== undefined) body.content = content;
  if (asked.includes("eft")) body.knobs = knobValues();
  return body;
}

/** Say something at the end of the open conversation, or in a new one. False when it was not accepted. */
export async function send(content: string): Promise<boolean> {
  try {
    const conversation = await ensure();
    const last = turns.value.at(-1);
    // A turn that nobody answered is replaced: a model's template wants the roles to alternate.
    const parent = last ? (last.chosen?.id ?? last.user.parent) : null;
    pending.value = { conversation: conversation.id, parent, content };
    return await follow(conversation.id, requestFor(parent, content));
  } catch (error) {
    complain(error);
    return false;
  } finally {
    pending.value = null;
  }
}

/** Another version of a turn. */
export async function edit(message: Message, content: string): Promise<boolean> {
  return current.value !== null && follow(current.value.id, requestFor(message.parent, content));
}

/** Another answer to a turn. */
export async function regenerate(user: MessageId): Promise<boolean> {
  return current.value !== null && follow(current.value.id, requestFor(user));
}

/** End the answers of the open conversation; what was written stays. */
export async function stop(): Promise<void> {
  const running = run.value;
  if (!running || running.stopping) return;
  running.stopping = true;
  const answers = [...running.messages.values()].flatMap((id) => live.value.get(id)?.answerId ?? []);
  if (answers.length < running.modes.length - finished(running.messages)) running.abort.abort();
  setTimeout(() => running.abort.abort(), STOP_MS);
  await Promise.all(answers.map((answer) => api.stopAnswer(answer).catch(() => running.abort.abort())));
}

const finished = (messages: Map<Mode, MessageId>): number =>
  [...messages.values()].filter((id) => !live.value.has(id)).length;

/** Send moved knobs to the answers that are being written, in any conversation. */
export function steerAsMoved(): void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let sent = "";
  effect(() => {
    const wanted = knobValues();
    const now = JSON.stringify(wanted);
    if (now === sent) return;
    sent = now;
    clearTimeout(timer);
    timer = setTimeout(() => void steer(wanted), KNOB_MS);
  });
}

async function steer(wanted: ReturnType<typeof knobValues>): Promise<void> {
  const temperature = wanted.temperature!;
  const changes = [...live.value.values()].map(({ answerId, mode }) =>
    api.changeAnswer(answerId, mode === "eft" ? wanted : { temperature }).catch(ignoreEnded),
  );
  await Promise.all(changes);
}

/** An answer may have ended before its knobs arrived. */
function ignoreEnded(error: unknown): void {
  if (!(error instanceof api.ApiError && error.status === 404)) complain(error);
}
