/** Tokens of finished answers: those just written, and those fetched from the history when somebody asks why. */

import { type Signal, signal } from "@preact/signals";
import { getTokens } from "./api";
import { complain } from "./state";
import type { Message, MessageId, Token } from "./types";

/** A token carries some kilobytes of candidates; old conversations are fetched again when they are opened again. */
const KEPT = 200;

const kept = new Map<MessageId, Signal<Token[] | null>>();

export function keepTokens(message: MessageId, tokens: Token[]): void {
  kept.set(message, signal(tokens));
  for (const oldest of kept.keys()) {
    if (kept.size <= KEPT) return;
    kept.delete(oldest);
  }
}

/** An answer's tokens; null until they have come, which is never while another page has it written. */
export function tokensOf({ id, state }: Message): Signal<Token[] | null> {
  const found = kept.get(id);
  if (found) return found;
  const result = signal<Token[] | null>(null);
  if (state === "streaming") return result;
  kept.set(id, result);
  getTokens(id)
    .then((tokens) => (result.value = tokens))
    .catch((error: unknown) => {
      kept.delete(id);
      complain(error);
    });
  return result;
}
