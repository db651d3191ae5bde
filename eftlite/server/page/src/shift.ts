/** Tokens and what the base did to them, as levels, words and places in the text. Pure. */

import type { Origin, Token } from "./types";

export const LEVELS = 10;

/** 0 (no colour) to LEVELS for a shift of 0 to 1; anything a reader can call a change gets a colour. */
export function level(shift: number | null): number {
  if (shift === null || !(shift >= 0.02)) return 0;
  return Math.min(LEVELS, Math.max(1, Math.ceil(shift * LEVELS)));
}

/** What is visible of tokens, put together. */
export const textOf = (tokens: Token[]): string => tokens.map((token) => token.t).join("");

/** Where each token's visible text begins; one entry more than there are tokens. */
export function startsOf(tokens: Token[]): number[] {
  const starts = [0];
  for (const token of tokens) starts.push(starts.at(-1)! + token.t.length);
  return starts;
}

/** Index of the token that made the character at a place visible. */
export function tokenAt(starts: number[], place: number): number {
  let low = 0;
  let high = starts.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (starts[middle]! <= place) low = middle;
    else high = middle;
  }
  return low;
}

/** Index of the first of the invisible tokens at the end, such as the one that ended the answer. */
export function tailOf(tokens: Token[]): number {
  let first = tokens.length;
  while (first > 0 && tokens[first - 1]!.t === "") first -= 1;
  return first;
}

/** What stands for tokens without a text, such as those that end an answer. */
const CONTROL = "⟨control⟩";

/** A token's text with its white space made visible. */
export function visible(text: string): string {
  if (text === "") return CONTROL;
  return text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥");
}

export const ORIGINS: Record<Origin, string> = {
  plain: "drawn without a draft",
  accepted: "drafted and accepted",
  corrected: "a draft was refused here, this was drawn instead",
  bonus: "drawn after a whole draft was accepted",
};

/** A member's name for people. The first delta's members have no name of their own: of several, it is the delta's. */
export function memberName(name: string, deltas: { name: string }[]): string {
  if (name === "eft") return "EFT";
  if (name === "tuned" && deltas.length > 1) return `tuned · ${deltas[0]!.name}`;
  return name.replace(":", " · ");
}
