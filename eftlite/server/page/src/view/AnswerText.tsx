/** An answer's rendered text, with its tokens' colours when somebody asks why. */

import type { JSX } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { hideCard, leaveCard, type Shown, showCard } from "../card";
import { paint } from "../paint";
import { textOf } from "../shift";
import type { Live } from "../state";
import { tokensOf } from "../tokens";
import type { Message, Token } from "../types";

interface Props {
  message: Message;
  writing: Live | undefined;
  isWhy: boolean;
}

export function AnswerText({ message, writing, isWhy }: Props): JSX.Element {
  const root = useRef<HTMLDivElement>(null);
  const tokens = isWhy ? (writing ? writing.tokens : tokensOf(message)).value : null;
  const coloured = tokens?.length ? tokens : null;
  const text = coloured ? textOf(coloured) : writing ? writing.text.value : message.content;
  useLayoutEffect(() => {
    if (root.current) paint(root.current, text, coloured, !writing);
  }, [text, coloured, writing]);
  const find = (target: EventTarget | null): Shown | null => shownAt(root.current, target, coloured);
  return (
    <div
      ref={root}
      class={`prose ${coloured ? "coloured" : ""} ${writing ? "writing" : ""}`}
      tabIndex={coloured ? 0 : undefined}
      role={coloured ? "group" : undefined}
      aria-label={coloured ? "Tokens; the arrow keys go from one to the next" : undefined}
      onPointerOver={(event) => event.pointerType === "mouse" && showCard(find(event.target))}
      onPointerLeave={() => leaveCard(find(document.activeElement))}
      onFocusIn={(event) => showCard(find(event.target))}
      onFocusOut={hideCard}
      onClick={(event) => showCard(find(event.target))}
      onKeyDown={walk}
    />
  );
}

/** The token that an element belongs to. */
function shownAt(root: HTMLElement | null, target: EventTarget | null, tokens: Token[] | null): Shown | null {
  const span = target instanceof Element ? target.closest<HTMLElement>(".token") : null;
  if (!root || !span || !root.contains(span)) return null;
  const index = Number(span.dataset.index);
  const token = tokens?.[index];
  return token ? { root, index, token } : null;
}

/** The arrow keys go from token to token. */
function walk(event: KeyboardEvent): void {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const root = event.currentTarget as HTMLElement;
  if (!step || !root.classList.contains("coloured")) return;
  const spans = [...root.querySelectorAll<HTMLElement>(".token")];
  const at = spans.indexOf(document.activeElement as HTMLElement);
  const next = spans[at < 0 ? (step > 0 ? 0 : spans.length - 1) : at + step];
  if (!next) return;
  event.preventDefault();
  next.focus();
}
