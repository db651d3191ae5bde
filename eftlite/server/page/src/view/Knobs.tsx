/** The sliders. */

import type { JSX } from "preact";
import { fixed } from "../format";
import { isMoved, type Knob, knobs, resetKnobs, setKnob, values } from "../knobs";
import { deltas } from "../state";
import { Formula } from "./Formula";

export function Knobs(): JSX.Element {
  return (
    <div class="knobs" id="knobs">
      {deltas.value.length > 0 && (
        <div class="formula-line">
          <Formula />
        </div>
      )}
      <div class="sliders">
        {knobs.value.map((knob) => (
          <Slider key={knob.name} knob={knob} value={values.value[knob.name]!} />
        ))}
      </div>
      {isMoved.value && (
        <button type="button" class="quiet reset" onClick={resetKnobs}>
          Reset
        </button>
      )}
    </div>
  );
}

function Slider({ knob, value }: { knob: Knob; value: number }): JSX.Element {
  const isOff = knob.name === "conservative_p" && value === 0;
  return (
    <label class={`slider ${value === knob.initial ? "" : "moved"}`} title={knob.help}>
      <span class="slider-name">
        <em>{knob.symbol}</em>
        {knob.label && <span>{knob.label}</span>}
        <output>{isOff ? "off" : fixed(value, 2)}</output>
      </span>
      <input
        type="range"
        name={knob.name}
        min={0}
        max={knob.max}
        step={knob.step}
        value={value}
        aria-label={knob.label ? `${knob.symbol} ${knob.label}` : knob.name.split(":")[0]}
        aria-description={knob.help}
        style={{ "--share": `${(Math.min(1, value / knob.max) * 100).toFixed(1)}%` }}
        onInput={(event) => setKnob(knob, event.currentTarget.valueAsNumber)}
        onDblClick={() => setKnob(knob, knob.initial)}
      />
    </label>
  );
}
