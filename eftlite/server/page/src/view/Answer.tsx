/** One answer: its text, its state, and the quiet line of what it took. */

import type { JSX } from "preact";
import { bytes, fixed, percent, share, speed } from "../format";
import { engine, live, why } from "../state";
import type { Message, Result } from "../types";
import { AnswerText } from "./AnswerText";

export function AnswerView({ message, isColumn }: { message: Message; isColumn?: boolean }): JSX.Element {
  const writing = live.value.get(message.id);
  return (
    <div class="answer" aria-busy={writing !== undefined}>
      <AnswerText message={message} writing={writing} isWhy={why.value} />
      {!writing && <State message={message} />}
      {!writing && <Took result={message.result} isShort={isColumn ?? false} />}
    </div>
  );
}

const STATES: Record<string, string> = {
  stopped: "Stopped",
  interrupted: "Cut off; what had come is kept",
  failed: "Failed",
  streaming: "Was still being written when this page read it",
};

function State({ message }: { message: Message }): JSX.Element | null {
  const text = STATES[message.state];
  if (message.state === "complete" || !text) return null;
  const reason = message.result?.error;
  return (
    <p class={`state ${message.state}`}>
      {text}
      {reason ? `: ${reason}` : ""}
    </p>
  );
}

/** Speed, drafts, shift, memory. */
function Took({ result, isShort }: { result: Result; isShort: boolean }): JSX.Element | null {
  if (!result.n_tokens) return null;
  const resident = engine.value?.memory.resident;
  const drafts = result.drafts;
  const parts: [text: string, help: string][] = [];
  if (result.tokens_per_s) parts.push([speed(result.tokens_per_s), timing(result)]);
  if (drafts?.n_drafted) {
    const accepted = percent(drafts.n_accepted / drafts.n_drafted);
    parts.push([`${accepted} accepted`, `${drafts.n_accepted} of ${drafts.n_drafted} drafted tokens were accepted`]);
  }
  if (result.shift != null) parts.push([`shift ${share(result.shift)}`, "Mean over the answer's tokens; 0 to 1"]);
  if (!isShort) parts.push([`${result.n_tokens} tokens`, prompt(result)]);
  if (!isShort && resident) parts.push([bytes(resident), "Memory of the engine's process now"]);
  return (
    <p class="took">
      {parts.map(([text, help]) => (
        <span key={help} title={help}>
          {text}
        </span>
      ))}
    </p>
  );
}

function timing(result: Result): string {
  const first = result.prompt_s === undefined ? "" : `first token after ${fixed(result.prompt_s, 2)} s, `;
  return `${first}then ${fixed(result.decode_s ?? 0, 2)} s`;
}

function prompt(result: Result): string {
  const seed = result.seed === undefined ? "" : `; seed ${result.seed}`;
  return `Prompt: ${result.n_prompt ?? 0} tokens, ${result.n_reused ?? 0} of them still known${seed}`;
}
