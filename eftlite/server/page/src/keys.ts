/** Keyboard shortcuts, and which of the page's layers are open. */

import { signal } from "@preact/signals";
import { stop } from "./answering";
import { startNew } from "./conversations";
import { run, why } from "./state";

export const isMenuOpen = signal(false);
export const isHelpOpen = signal(false);

const IS_MAC = /mac|iphone|ipad/i.test(navigator.platform);
export const MODIFIER = IS_MAC ? "⌘" : "Ctrl";

export const SHORTCUTS: [keys: string, what: string][] = [
  ["Enter", "send"],
  ["Shift Enter", "new line"],
  ["Esc", "stop the answer"],
  [`${MODIFIER} K`, "search conversations"],
  [`${MODIFIER} Shift O`, "new conversation"],
  ["Shift Esc", "write"],
  [`${MODIFIER} .`, "why: colour the tokens"],
  [`${MODIFIER} /`, "this list"],
  ["← →", "from token to token, once one has the focus"],
];

const focus = (selector: string): void => document.querySelector<HTMLElement>(selector)?.focus();

export const focusComposer = (): void => focus("#say");

export function newConversation(): void {
  startNew();
  isMenuOpen.value = false;
  focusComposer();
}

function search(): void {
  isMenuOpen.value = true;
  // The list is inert until it is shown.
  requestAnimationFrame(() => focus("#search"));
}

/** What a key press with the modifier means. */
const WITH_MODIFIER: Record<string, () => void> = {
  k: search,
  "shift+o": newConversation,
  ".": () => (why.value = !why.value),
  "/": () => (isHelpOpen.value = !isHelpOpen.value),
};

function onEscape(event: KeyboardEvent): void {
  if (event.shiftKey) focusComposer();
  else if (isHelpOpen.value) isHelpOpen.value = false;
  else if (isMenuOpen.value) isMenuOpen.value = false;
  else if (run.value) void stop();
}

export function listenToKeys(): void {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing) return;
    if (event.key === "Escape") onEscape(event);
    if (!(IS_MAC ? event.metaKey : event.ctrlKey) || event.altKey) return;
    const action = WITH_MODIFIER[(event.shiftKey ? "shift+" : "") + event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    action();
  });
}
