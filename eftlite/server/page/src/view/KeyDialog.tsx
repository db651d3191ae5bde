/** Asks for the server's key, when it wants one. */

import { signal } from "@preact/signals";
import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { onKeyNeeded } from "../api";

const asked = signal<{ wrong: boolean; answer: (key: string | null) => void } | null>(null);

onKeyNeeded((wrong) => new Promise((answer) => (asked.value = { wrong, answer })));

export function KeyDialog(): JSX.Element | null {
  const dialog = useRef<HTMLDialogElement>(null);
  const field = useRef<HTMLInputElement>(null);
  const question = asked.value;
  useEffect(() => {
    if (question) dialog.current?.showModal();
  }, [question]);
  if (!question) return null;
  const end = (key: string | null): void => {
    asked.value = null;
    question.answer(key);
  };
  return (
    <dialog ref={dialog} aria-labelledby="key-title" onCancel={() => end(null)}>
      <h2 id="key-title">This server wants a key</h2>
      <p>
        {question.wrong ? "That was not it." : "It was set with --api-key. It is forgotten when this tab is closed."}
      </p>
      <input
        ref={field}
        type="password"
        aria-label="Key"
        autocomplete="off"
        autofocus
        onKeyDown={(event) => event.key === "Enter" && end(field.current?.value ?? "")}
      />
      <div class="dialog-actions">
        <button type="button" class="primary" onClick={() => end(field.current?.value ?? "")}>
          Enter
        </button>
      </div>
    </dialog>
  );
}
