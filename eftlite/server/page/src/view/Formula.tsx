/** The method's equation with the knobs' values in it. */

import type { ComponentChildren, JSX } from "preact";
import { fixed } from "../format";
import { alphaName, initials, values } from "../knobs";
import { deltas } from "../state";

/** log p with the member's name below. */
function LogP({ of }: { of?: string }): JSX.Element {
  return (
    <span class="log-p">
      log <var>p</var>
      {of && <sub>{of}</sub>}
    </span>
  );
}

/** A coefficient, marked where a person moved it. */
function Weight({ name, value }: { name: string; value: number }): JSX.Element {
  return <b class={values.value[name] === initials.value[name] ? "" : "moved"}>{fixed(value, 2)}</b>;
}

/** A sign and what follows it; faint where it counts for nothing. */
function Term({ sign, children, none }: { sign: string; children: ComponentChildren; none?: boolean }): JSX.Element {
  return (
    <span class={none ? "term none" : "term"}>
      <i>{sign}</i>
      {children}
    </span>
  );
}

export function Formula(): JSX.Element {
  const beta = values.value.beta ?? 1;
  return (
    <p class="formula">
      <LogP />
      <Term sign="=">
        <Weight name="beta" value={beta} /> <LogP of="base" />
      </Term>
      {deltas.value.map(({ name }) => {
        const alpha = values.value[alphaName(name)] ?? 1;
        return (
          <Term key={name} sign="+" none={alpha === 0}>
            <Weight name={alphaName(name)} value={alpha} /> (<LogP of={deltas.value.length === 1 ? "tuned" : name} />
            <i>−</i>
            <LogP of="reference" />)
          </Term>
        );
      })}
      {beta !== 1 && (
        <Term sign={beta > 1 ? "−" : "+"}>
          <Weight name="beta" value={Math.abs(beta - 1)} /> <LogP of="reference" />
        </Term>
      )}
      <Term sign="−">
        log <var>Z</var>
      </Term>
    </p>
  );
}
