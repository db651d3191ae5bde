/** Answers that were asked for together: one, or columns that become tabs where there is no room. */

import type { JSX } from "preact";
import { useId, useState } from "preact/hooks";
import { choose } from "../conversations";
import { parameters } from "../format";
import { engine } from "../state";
import { preferred, type Take } from "../tree";
import type { Message, Mode } from "../types";
import { AnswerView } from "./Answer";

const MODE_NAMES: Record<Mode, string> = {
  eft: "EFT",
  base: "Base alone",
  tuned: "Tuned alone",
  reference: "Reference alone",
};

export const modeName = (mode: Mode | ""): string => MODE_NAMES[mode || "eft"];

export function TakeView({ take, chosen }: { take: Take; chosen: Message | null }): JSX.Element {
  const [tab, setTab] = useState<Mode | "">("");
  const id = useId();
  if (take.length === 1) return <AnswerView message={take[0]!} />;
  const shown = take.find((message) => message.mode === tab) ?? chosen ?? preferred(take);
  return (
    <div class="columns-frame">
      <div class="tabs" role="group" aria-label="Whose answer">
        {take.map((message) => (
          <button key={message.id} type="button" aria-pressed={message === shown} onClick={() => setTab(message.mode)}>
            {modeName(message.mode)}
          </button>
        ))}
      </div>
      <div class={`columns of-${take.length}`}>
        {take.map((message) => (
          <section
            key={message.id}
            class={`column ${message.mode} ${message === shown ? "shown" : ""}`}
            aria-label={modeName(message.mode)}
          >
            <ColumnHead message={message} isChosen={message.id === chosen?.id} name={id} />
            <AnswerView message={message} isColumn />
          </section>
        ))}
      </div>
    </div>
  );
}

/** Whose column it is, and whether the conversation goes on from it. */
function ColumnHead(props: { message: Message; isChosen: boolean; name: string }): JSX.Element {
  const { message, isChosen, name } = props;
  return (
    <label class="column-head" title="Go on from this answer">
      <input type="radio" name={name} checked={isChosen} onChange={() => void choose(message)} />
      <strong>{modeName(message.mode)}</strong>
      <span>{whoIs(message.mode)}</span>
    </label>
  );
}

/** How large the model behind a mode is. */
function whoIs(mode: Mode | ""): string {
  const members = engine.value?.members ?? [];
  if (mode === "eft") return "base + tuned − reference";
  const member = members.find(({ name }) => name === mode || name.startsWith(`${mode}:`));
  return member ? parameters(member.n_params) : "";
}
