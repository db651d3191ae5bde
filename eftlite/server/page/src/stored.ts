/** Signals that survive a reload, and the drafts of turns that were not sent. Knows localStorage. */

import { effect, type Signal, signal } from "@preact/signals";
import type { ConversationId } from "./types";

const PREFIX = "eftlite.";

/** A private window may refuse to store anything; the page works without. */
function read<T>(name: string, initial: T): T {
  try {
    const text = localStorage.getItem(PREFIX + name);
    return text === null ? initial : (JSON.parse(text) as T);
  } catch {
    return initial;
  }
}

function write(name: string, value: unknown): void {
  try {
    if (value === "" || value === null) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // Nothing to do: full, or not allowed.
  }
}

export function stored<T>(name: string, initial: T): Signal<T> {
  const result = signal(read(name, initial));
  effect(() => write(name, result.value));
  return result;
}

const draftName = (conversation: ConversationId | null): string => `draft.${conversation ?? "new"}`;

export const readDraft = (conversation: ConversationId | null): string => read(draftName(conversation), "");
export const writeDraft = (conversation: ConversationId | null, text: string): void =>
  write(draftName(conversation), text);
