/** One turn: what was asked, in its versions, and a take of answers to it. */

import type { JSX } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { edit, regenerate } from "../answering";
import { choose } from "../conversations";
import { run } from "../state";
import { preferred, type Turn } from "../tree";
import type { Message } from "../types";
import { CopyButton } from "./CopyButton";
import { IconButton } from "./icons";
import { TakeView } from "./Take";

export function TurnView({ turn }: { turn: Turn }): JSX.Element {
  const [isEditing, setIsEditing] = useState(false);
  const { user, versions, takes, shown } = turn;
  const take = takes[shown];
  const isBusy = run.value !== null;
  return (
    <article class="turn">
      {isEditing ? (
        <Edit message={user} done={() => setIsEditing(false)} />
      ) : (
        <Question content={user.content}>
          <Arrows
            what="version"
            index={versions.indexOf(user)}
            count={versions.length}
            go={(i) => void choose(versions[i]!)}
          />
          <IconButton icon="edit" label="Edit" disabled={isBusy} onClick={() => setIsEditing(true)} />
          <CopyButton text={() => user.content} />
        </Question>
      )}
      {take && <TakeView take={take} chosen={turn.chosen} />}
      <div class="turn-actions">
        <Arrows what="answer" index={shown} count={takes.length} go={(i) => void choose(preferred(takes[i]!))} />
        <IconButton icon="again" label="Answer again" disabled={isBusy} onClick={() => void regenerate(user.id)} />
        {take?.length === 1 && <CopyButton text={() => take[0]!.content} />}
      </div>
    </article>
  );
}

export function Question(props: { content: string; children?: JSX.Element | (JSX.Element | null)[] }): JSX.Element {
  return (
    <div class="question">
      <p>{props.content}</p>
      {props.children && <div class="question-actions">{props.children}</div>}
    </div>
  );
}

interface ArrowsProps {
  what: string;
  index: number;
  count: number;
  go: (index: number) => void;
}

/** ‹ 2/3 › */
function Arrows({ what, index, count, go }: ArrowsProps): JSX.Element | null {
  if (count < 2) return null;
  return (
    <span class="arrows">
      <IconButton icon="left" label={`Earlier ${what}`} disabled={index === 0} onClick={() => go(index - 1)} />
      <span class="number" aria-label={`${what} ${index + 1} of ${count}`}>
        {index + 1}/{count}
      </span>
      <IconButton icon="right" label={`Later ${what}`} disabled={index === count - 1} onClick={() => go(index + 1)} />
    </span>
  );
}

function Edit({ message, done }: { message: Message; done: () => void }): JSX.Element {
  const field = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    field.current?.focus();
    field.current?.setSelectionRange(message.content.length, message.content.length);
  }, []);
  const send = async (): Promise<void> => {
    const content = field.current?.value.trim();
    if (!content) return;
    if (content === message.content || (await edit(message, content))) done();
  };
  return (
    <div class="edit">
      <textarea
        ref={field}
        aria-label="Edit this turn"
        rows={Math.min(10, message.content.split("\n").length + 1)}
        defaultValue={message.content}
        onKeyDown={(event) => {
          if (event.key === "Escape") {
            event.preventDefault();
            done();
          }
          if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
          event.preventDefault();
          void send();
        }}
      />
      <div class="edit-actions">
        <button type="button" class="quiet" onClick={done}>
          Cancel
        </button>
        <button type="button" class="primary" onClick={() => void send()}>
          Send
        </button>
      </div>
    </div>
  );
}
