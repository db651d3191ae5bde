/** One conversation in the list: opened, renamed, deleted after a question. */

import type { JSX } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { open, remove, rename } from "../conversations";
import { isMenuOpen } from "../keys";
import { current, query, runs } from "../state";
import type { Summary } from "../types";
import { IconButton } from "./icons";

type Doing = "nothing" | "renaming" | "deleting";

export function Entry({ summary }: { summary: Summary }): JSX.Element {
  const [doing, setDoing] = useState<Doing>("nothing");
  const isOpen = current.value?.id === summary.id;
  const done = (): void => setDoing("nothing");
  if (doing === "renaming") return <Renaming summary={summary} done={done} />;
  if (doing === "deleting") return <Deleting summary={summary} done={done} />;
  return (
    <li class={`entry ${isOpen ? "open" : ""}`}>
      <button
        type="button"
        class="entry-open"
        aria-current={isOpen ? "page" : undefined}
        title={summary.preview}
        onClick={() => {
          isMenuOpen.value = false;
          void open(summary.id);
        }}
      >
        {summary.title || summary.preview || "Untitled"}
        {query.value && summary.preview !== summary.title && <small>{summary.preview}</small>}
        {runs.value.has(summary.id) && <span class="pulse" role="img" aria-label="being answered" />}
      </button>
      <span class="entry-actions">
        <IconButton icon="edit" label="Rename" onClick={() => setDoing("renaming")} />
        <IconButton icon="trash" label="Delete" onClick={() => setDoing("deleting")} />
      </span>
    </li>
  );
}

function Renaming({ summary, done }: { summary: Summary; done: () => void }): JSX.Element {
  const field = useRef<HTMLInputElement>(null);
  useLayoutEffect(() => {
    field.current?.focus();
    field.current?.select();
  }, []);
  const keep = (title: string): void => {
    done();
    if (title.trim() && title.trim() !== summary.title) void rename(summary.id, title.trim());
  };
  return (
    <li class="entry">
      <input
        class="entry-name"
        aria-label="New title"
        defaultValue={summary.title}
        maxLength={200}
        ref={field}
        onBlur={(event) => keep(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === "Enter") keep(event.currentTarget.value);
          if (event.key !== "Escape") return;
          event.preventDefault();
          done();
        }}
      />
    </li>
  );
}

function Deleting({ summary, done }: { summary: Summary; done: () => void }): JSX.Element {
  const keep = useRef<HTMLButtonElement>(null);
  useLayoutEffect(() => keep.current?.focus(), []);
  return (
    <li class="entry deleting">
      <span>Delete for good?</span>
      <button type="button" class="danger" onClick={() => void remove(summary.id)}>
        Delete
      </button>
      <button type="button" class="quiet" onClick={done} ref={keep}>
        Keep
      </button>
    </li>
  );
}
