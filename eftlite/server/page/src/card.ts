/** Which token's card is shown. A token under the pointer comes before one that has the focus. */

import { signal } from "@preact/signals";
import type { Token } from "./types";

export interface Shown {
  token: Token;
  index: number;
  /** The text that the token is in; its span may be renewed while the answer is being written. */
  root: HTMLElement;
}

export const card = signal<Shown | null>(null);

const LEAVE_MS = 120;

let leaving: ReturnType<typeof setTimeout> | undefined;

export const spanOf = ({ root, index }: Shown): HTMLElement | null =>
  root.querySelector<HTMLElement>(`[data-index="${index}"]`);

export function showCard(found: Shown | null): void {
  if (!found) return;
  clearTimeout(leaving);
  card.value = found;
}

/** Shortly after the pointer has left, so that it may go from one token to the next. */
export function leaveCard(focused: Shown | null): void {
  clearTimeout(leaving);
  leaving = setTimeout(() => (card.value = focused), LEAVE_MS);
}

export function hideCard(): void {
  clearTimeout(leaving);
  card.value = null;
}
