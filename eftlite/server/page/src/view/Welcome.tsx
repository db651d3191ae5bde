/** A conversation before its first turn. */

import type { JSX } from "preact";
import { send } from "../answering";
import { deltas, engine } from "../state";
import { Eft } from "./icons";

export function Welcome(): JSX.Element {
  return (
    <div class="welcome">
      <Eft />
      <p class="claim">
        {deltas.value.length > 0
          ? "A large model’s knowledge with a small model’s manners"
          : (engine.value?.family ?? "")}
      </p>
      <ul class="suggestions">
        {(engine.value?.suggestions ?? []).map((suggestion) => (
          <li key={suggestion}>
            <button type="button" onClick={() => void send(suggestion)}>
              {suggestion}
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}
