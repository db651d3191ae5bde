/** The card of one token: what each member would have said, and what became of it. */

import type { JSX } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { card, hideCard, spanOf, type Shown } from "../card";
import { fixed, percent, share } from "../format";
import { memberName, ORIGINS, visible } from "../shift";
import { deltas } from "../state";
import type { Candidate, Token } from "../types";

const MARGIN = 10;

export function Card(): JSX.Element | null {
  const box = useRef<HTMLDivElement>(null);
  const shown = card.value;
  useLayoutEffect(() => {
    const follow = (): void => {
      if (box.current && card.value) place(box.current, card.value);
    };
    follow();
    addEventListener("resize", follow);
    document.addEventListener("scroll", follow, { capture: true, passive: true });
    return () => {
      removeEventListener("resize", follow);
      document.removeEventListener("scroll", follow, { capture: true });
    };
  });
  if (!shown) return null;
  const { token } = shown;
  return (
    <div class="card" ref={box} role="status">
      <header>
        <code class="token">{visible(token.p || token.t)}</code>
        <p>
          {token.s === null ? "" : <strong>shift {share(token.s)}</strong>}
          <span>{ORIGINS[token.o] ?? token.o}</span>
        </p>
      </header>
      <div class="members">
        {memberTops(token).map(([name, candidates]) => (
          <MemberTop key={name} name={name} candidates={candidates} token={token} />
        ))}
      </div>
    </div>
  );
}

/** Members in the order of the formula, the composite last. */
function memberTops(token: Token): [string, Candidate[]][] {
  const order = ["base", "tuned", "reference", "eft"];
  const rank = (name: string): number => order.indexOf(name.split(":")[0]!);
  return Object.entries(token.top ?? {}).sort(([a], [b]) => rank(a) - rank(b));
}

function MemberTop(props: { name: string; candidates: Candidate[]; token: Token }): JSX.Element {
  const { name, candidates, token } = props;
  return (
    <section class={name === "eft" ? "composite" : ""}>
      <h3>{memberName(name, deltas.value)}</h3>
      <ol>
        {candidates.map(([text, logprob], i) => {
          const probability = Math.exp(logprob);
          return (
            <li key={i} class={text === token.p ? "taken" : ""} title={`log p = ${fixed(logprob, 2)}`}>
              <i class="bar" style={{ "--share": `${(probability * 100).toFixed(1)}%` }} />
              <code>{visible(text)}</code>
              <span class="number">{percent(probability)}</span>
            </li>
          );
        })}
      </ol>
    </section>
  );
}

/** Below the token if there is room, else above; at the bottom of a narrow page (by the style sheet). */
function place(box: HTMLElement, shown: Shown): void {
  const anchor = spanOf(shown)?.getClientRects()[0];
  if (!anchor || anchor.bottom < 0 || anchor.top > innerHeight) return hideCard();
  const { width, height } = box.getBoundingClientRect();
  const below = anchor.bottom + MARGIN / 2;
  const top = below + height + MARGIN <= innerHeight ? below : Math.max(MARGIN, anchor.top - height - MARGIN / 2);
  const left = Math.min(Math.max(MARGIN, anchor.left - 24), innerWidth - width - MARGIN);
  box.style.setProperty("--top", `${top}px`);
  box.style.setProperty("--left", `${Math.max(MARGIN, left)}px`);
}
