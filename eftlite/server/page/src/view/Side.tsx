/** The side: conversations by day, search, and what is loaded. */

import type { JSX } from "preact";
import { refresh } from "../conversations";
import { bytes, day, parameters } from "../format";
import { isHelpOpen, MODIFIER, newConversation } from "../keys";
import { memberName } from "../shift";
import { deltas, engine, moreSummaries, query, summaries } from "../state";
import type { Member, Summary } from "../types";
import { Entry } from "./Entry";
import { Eft, Icon, IconButton } from "./icons";

export function Side(): JSX.Element {
  return (
    <nav class="side" aria-label="Conversations">
      <div class="side-head">
        <span class="brand">
          <Eft />
          eftlite
        </span>
        <button type="button" class="new" onClick={newConversation} title={`New conversation (${MODIFIER} Shift O)`}>
          <Icon name="plus" />
          New
        </button>
      </div>
      <label class="search">
        <Icon name="search" />
        <input
          id="search"
          type="search"
          placeholder="Search"
          aria-label="Search conversations"
          autocomplete="off"
          value={query.value}
          onInput={(event) => (query.value = event.currentTarget.value)}
        />
        <kbd>{MODIFIER} K</kbd>
      </label>
      <div class="entries">
        {byDay(summaries.value).map(([heading, group]) => (
          <section key={heading}>
            <h2>{heading}</h2>
            <ul>
              {group.map((summary) => (
                <Entry key={summary.id} summary={summary} />
              ))}
            </ul>
          </section>
        ))}
        {summaries.value.length === 0 && <p class="nothing">{query.value ? "Nothing found" : "Nothing said yet"}</p>}
        {moreSummaries.value && (
          <button type="button" class="quiet" onClick={() => void refresh(true)}>
            Older ones
          </button>
        )}
      </div>
      <Loaded />
    </nav>
  );
}

function byDay(list: Summary[]): [string, Summary[]][] {
  const groups = new Map<string, Summary[]>();
  for (const summary of list) {
    const heading = day(summary.updated * 1000);
    groups.set(heading, [...(groups.get(heading) ?? []), summary]);
  }
  return [...groups];
}

/** The members with their sizes, and the memory that the engine takes. */
function Loaded(): JSX.Element | null {
  const models = engine.value;
  if (!models) return null;
  const { resident } = models.memory;
  return (
    <section class="loaded" aria-label="Models">
      <h2>
        {models.family}
        {resident ? <span>{bytes(resident)} in memory</span> : null}
      </h2>
      <ul>
        {models.members.map((member) => (
          <Row key={member.name} member={member} />
        ))}
      </ul>
      <p>
        eftlite {models.version}
        <IconButton
          icon="keyboard"
          label={`Keyboard (${MODIFIER} /)`}
          onClick={() => {
            isHelpOpen.value = true;
          }}
        />
      </p>
    </section>
  );
}

function Row({ member }: { member: Member }): JSX.Element {
  return (
    <li title={`${member.file}: ${member.description}`}>
      <span>{memberName(member.name, deltas.value)}</span>
      <span class="number">{parameters(member.n_params)}</span>
      <span class="number">{bytes(member.size_bytes)}</span>
    </li>
  );
}
