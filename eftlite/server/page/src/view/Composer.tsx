/** What is to be said next, by whom it is to be answered, and the knobs. */

import type { JSX } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { send, stop } from "../answering";
import { about, compare, current, deltas, pending, reachable, run } from "../state";
import { readDraft, stored, writeDraft } from "../stored";
import { Icon, IconButton } from "./icons";
import { Knobs } from "./Knobs";

/** Open to begin with where there is room. */
const showsKnobs = stored("knobs-open", matchMedia("(min-width: 700px)").matches);

export function Composer(): JSX.Element {
  const id = current.value?.id ?? null;
  const [text, setText] = useState(() => readDraft(id));
  const field = useRef<HTMLTextAreaElement>(null);
  useEffect(() => setText(readDraft(id)), [id]);
  useLayoutEffect(() => {
    if (field.current) fit(field.current);
  }, [text]);
  const write = (next: string): void => {
    setText(next);
    writeDraft(id, next);
  };
  const submit = async (): Promise<void> => {
    const content = text.trim();
    if (!content || run.value || pending.value) return;
    setText("");
    // The draft stays stored until the server has the turn.
    if (await send(content)) writeDraft(id, "");
    else setText(readDraft(id) || content);
  };
  return (
    <footer class="composer">
      <ServerState />
      <div class="composer-box">
        {showsKnobs.value && <Knobs />}
        <textarea
          id="say"
          ref={field}
          rows={1}
          value={text}
          placeholder="Ask something"
          aria-label="What to say"
          autofocus
          onInput={(event) => write(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
            event.preventDefault();
            void submit();
          }}
        />
        <div class="composer-line">
          <IconButton
            icon="sliders"
            label="Knobs"
            pressed={showsKnobs.value}
            onClick={() => (showsKnobs.value = !showsKnobs.value)}
          />
          {deltas.value.length > 0 && <WhoAnswers />}
          <span class="space" />
          <SendOrStop canSend={text.trim() !== ""} submit={() => void submit()} />
        </div>
      </div>
    </footer>
  );
}

/** As high as its text, up to the limit in the style sheet. */
function fit(field: HTMLTextAreaElement): void {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

function WhoAnswers(): JSX.Element {
  return (
    <div class="who" role="radiogroup" aria-label="Who answers">
      <label class={compare.value ? "" : "on"}>
        <input type="radio" name="who" checked={!compare.value} onChange={() => (compare.value = false)} />
        EFT
      </label>
      <label class={compare.value ? "on" : ""} title="Base alone, tuned alone and EFT, side by side">
        <input type="radio" name="who" checked={compare.value} onChange={() => (compare.value = true)} />
        Three columns
      </label>
    </div>
  );
}

function SendOrStop({ canSend, submit }: { canSend: boolean; submit: () => void }): JSX.Element {
  if (run.value) {
    return (
      <button type="button" class="send stop" aria-label="Stop" title="Stop (Esc)" onClick={() => void stop()}>
        <i />
      </button>
    );
  }
  return (
    <button type="button" class="send" aria-label="Send" title="Send (Enter)" disabled={!canSend} onClick={submit}>
      <Icon name="send" />
    </button>
  );
}

const STATES: Record<string, string> = {
  loading: "The models are being loaded",
  restarting: "The engine stopped and is being loaded again",
  failed: "The engine could not be loaded",
  closed: "The server is being shut down",
};

/** Why nothing can be answered now. */
function ServerState(): JSX.Element | null {
  const engine = about.value;
  const text = reachable.value ? STATES[engine?.state ?? ""] : "The server cannot be reached; trying again";
  return (
    <p class="server-state" role="status">
      {text && (
        <>
          <span class="pulse" aria-hidden="true" />
          {text}
          {engine?.failure && engine.state === "failed" ? `: ${engine.failure}` : ""}
        </>
      )}
    </p>
  );
}
