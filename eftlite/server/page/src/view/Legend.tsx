/** What the colours of tokens mean. */

import type { JSX } from "preact";
import { LEVELS } from "../shift";

export function Legend(): JSX.Element {
  return (
    <div class="legend">
      <span>How far the base changed the tuned model’s mind</span>
      <span class="scale" role="img" aria-label="shift from 0, no colour, to 1, the strongest colour">
        <span class="number">0</span>
        {Array.from({ length: LEVELS + 1 }, (_, i) => (
          <i key={i} class={`s${i}`} />
        ))}
        <span class="number">1</span>
      </span>
      <span class="sign">
        <span class="token corrected">draft refused</span>
      </span>
    </div>
  );
}
