/** Strengths that a person may move, and what of them a request must carry. */

import { computed } from "@preact/signals";
import { deltas, engine } from "./state";
import { stored } from "./stored";
import type { Engine, KnobValues, SamplingValues } from "./types";

/** One slider. */
export interface Knob {
  name: string;
  symbol: string;
  label: string;
  help: string;
  initial: number;
  max: number;
  step: number;
}

/** Values that differ from the server's, by knob's name. */
const moved = stored<Record<string, number>>("knobs", {});

export const alphaName = (delta: string): string => `alpha:${delta}`;

function alphaKnobs(): Knob[] {
  const only = deltas.value.length === 1;
  return deltas.value.map((delta) => ({
    name: alphaName(delta.name),
    symbol: "α",
    label: only ? "" : delta.name,
    help: only
      ? "Strength of what fine-tuning taught: 0 is the base alone, 1 the plain method"
      : `Strength of the delta ${delta.name}: what its fine-tuning taught`,
    initial: delta.alpha,
    max: 2,
    step: 0.05,
  }));
}

function otherKnobs({ knobs: now }: Engine): Knob[] {
  return [
    {
      name: "beta",
      symbol: "β",
      label: "",
      help: "Weight of what the large model adds to the small one; more than 1 amplifies it",
      initial: now.beta,
      max: 3,
      step: 0.05,
    },
    {
      name: "conservative_p",
      symbol: "p",
      label: "conservative",
      help: "Outside the tuned model's top-p set the base does not count; 0 switches this off",
      initial: now.conservative_p ?? 0,
      max: 1,
      step: 0.01,
    },
  ];
}

const temperatureKnob = ({ sampling: now }: Engine): Knob => ({
  name: "temperature",
  symbol: "T",
  label: "",
  help: "Temperature: 0 always takes the likeliest token",
  initial: now.temperature,
  max: 2,
  step: 0.05,
});

export const knobs = computed<Knob[]>(() => {
  if (!engine.value) return [];
  const eft = deltas.value.length ? [...alphaKnobs(), ...otherKnobs(engine.value)] : [];
  return [...eft, temperatureKnob(engine.value)];
});

/** Every knob's value. */
export const values = computed<Record<string, number>>(() =>
  Object.fromEntries(knobs.value.map((knob) => [knob.name, moved.value[knob.name] ?? knob.initial])),
);

/** Every knob's value before anybody moved it. */
export const initials = computed<Record<string, number>>(() =>
  Object.fromEntries(knobs.value.map((knob) => [knob.name, knob.initial])),
);

export const isMoved = computed(() => knobs.value.some((knob) => values.value[knob.name] !== knob.initial));

export function setKnob(knob: Knob, value: number): void {
  const { [knob.name]: _, ...others } = moved.value;
  moved.value = value === knob.initial ? others : { ...others, [knob.name]: value };
}

export function resetKnobs(): void {
  moved.value = {};
}

/** The knobs of EFT as a request names them, all of them: an answer that began with others is to get these. */
export function knobValues(): KnobValues {
  const all = values.value;
  const alphas = Object.fromEntries(deltas.value.map(({ name }) => [name, all[alphaName(name)]!]));
  return { deltas: alphas, beta: all.beta!, conservative_p: all.conservative_p!, temperature: all.temperature! };
}

export function samplingValues(): SamplingValues {
  const { temperature } = values.value;
  return temperature === undefined ? {} : { temperature };
}
