/** The line above a conversation: its title, the switch for why, system prompt, export, light and dark. */

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { download, setSystem } from "../conversations";
import { isMenuOpen, MODIFIER } from "../keys";
import { current, deltas, newSystem, theme, why } from "../state";
import { Icon, IconButton } from "./icons";
import { Legend } from "./Legend";

const NEXT_THEME = { auto: "light", light: "dark", dark: "auto" } as const;
const THEME_ICON = { auto: "auto", light: "sun", dark: "moon" } as const;
const THEME_LABEL = { auto: "Colours: as the system", light: "Colours: light", dark: "Colours: dark" } as const;

export function Head(): JSX.Element {
  const [showsSystem, setShowsSystem] = useState(false);
  const conversation = current.value;
  const system = conversation ? conversation.system : newSystem.value;
  return (
    <header class="head">
      <div class="head-line">
        <IconButton
          icon="menu"
          label="Conversations"
          class="menu-button"
          onClick={() => (isMenuOpen.value = !isMenuOpen.value)}
        />
        {conversation ? <h1>{conversation.title}</h1> : <h1 class="off-screen">New conversation</h1>}
        <span class="space" />
        {deltas.value.length > 0 && <WhySwitch />}
        <IconButton
          icon="system"
          label={system ? "System prompt (set)" : "System prompt"}
          class={system ? "marked" : ""}
          pressed={showsSystem}
          onClick={() => setShowsSystem(!showsSystem)}
        />
        {conversation && <Export />}
        <IconButton
          icon={THEME_ICON[theme.value]}
          label={THEME_LABEL[theme.value]}
          onClick={() => (theme.value = NEXT_THEME[theme.value])}
        />
      </div>
      {showsSystem && <SystemPrompt key={conversation?.id ?? "new"} system={system ?? ""} />}
      {why.value && deltas.value.length > 0 && <Legend />}
    </header>
  );
}

function WhySwitch(): JSX.Element {
  return (
    <button
      type="button"
      class="why-switch"
      aria-pressed={why.value}
      title={`Colour each token by how far the base changed the tuned model's mind (${MODIFIER} .)`}
      onClick={() => (why.value = !why.value)}
    >
      <span class="why-sample" aria-hidden="true">
        <i class="s1" />
        <i class="s4" />
        <i class="s8" />
      </span>
      Why
    </button>
  );
}

function SystemPrompt({ system }: { system: string }): JSX.Element {
  return (
    <label class="system">
      <span>System prompt of this conversation; counts from the next answer on</span>
      <textarea
        rows={3}
        maxLength={100_000}
        defaultValue={system}
        placeholder="None"
        onChange={(event) => void setSystem(event.currentTarget.value)}
      />
    </label>
  );
}

function Export(): JSX.Element | null {
  const conversation = current.value;
  if (!conversation) return null;
  const save = (format: "md" | "json") => (event: MouseEvent) => {
    (event.currentTarget as HTMLElement).closest("details")?.removeAttribute("open");
    void download(conversation.id, conversation.title, format);
  };
  return (
    <details
      class="export"
      onBlurCapture={(event) => {
        const inside = event.currentTarget.contains(event.relatedTarget as Node | null);
        if (!inside) event.currentTarget.removeAttribute("open");
      }}
    >
      <summary class="icon-button" aria-label="Export" title="Export">
        <Icon name="export" />
      </summary>
      <div class="popup">
        <button type="button" onClick={save("md")}>
          Markdown
        </button>
        <button type="button" onClick={save("json")}>
          JSON, every version
        </button>
      </div>
    </details>
  );
}
