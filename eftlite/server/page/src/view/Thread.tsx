/** The open conversation, kept at its end while somebody reads there. */

import type { JSX } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { current, live, pending, turns } from "../state";
import { turnsUntil } from "../tree";
import { IconButton } from "./icons";
import { Question, TurnView } from "./Turn";

/** Pixels from the end at which a reader counts as being at the end. */
const NEAR = 60;

export function Thread(): JSX.Element {
  const frame = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const [atEnd, setAtEnd] = useState(true);
  const sticks = useRef(true);
  const lastTop = useRef(0);
  const toEnd = (): void => {
    sticks.current = true;
    frame.current?.scrollTo({ top: frame.current.scrollHeight });
  };
  useLayoutEffect(toEnd, [current.value?.id, pending.value]);
  useEffect(() => {
    // Answers grow without the tree being rendered again.
    const observer = new ResizeObserver(() => sticks.current && live.value.size > 0 && toEnd());
    if (content.current) observer.observe(content.current);
    return () => observer.disconnect();
  }, []);
  const onScroll = (event: Event): void => {
    const { scrollTop, scrollHeight, clientHeight } = event.currentTarget as HTMLElement;
    const near = scrollHeight - scrollTop - clientHeight < NEAR;
    // Growth alone also leaves the end behind; only a reader goes up.
    if (near) sticks.current = true;
    else if (scrollTop < lastTop.current) sticks.current = false;
    lastTop.current = scrollTop;
    setAtEnd(near);
  };
  const said = pending.value?.conversation === current.value?.id ? pending.value : null;
  const shown = said ? turnsUntil(turns.value, said.parent) : turns.value;
  return (
    <div class="thread" ref={frame} onScroll={onScroll} tabIndex={-1}>
      <div class="thread-content" ref={content} role="log" aria-label="Conversation" aria-live="off">
        {shown.map((turn) => (
          <TurnView key={turn.versions[0]!.id} turn={turn} />
        ))}
        {said && <Question content={said.content} />}
      </div>
      {!atEnd && <IconButton icon="down" label="To the end" class="to-end" onClick={toEnd} />}
    </div>
  );
}
