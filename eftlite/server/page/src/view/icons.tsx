/** Icons: one stroke, 16 × 16. They are always beside or inside something that has a name. */

import type { JSX } from "preact";

const PATHS = {
  plus: "M8 3v10M3 8h10",
  search: "M7 12A5 5 0 1 0 7 2a5 5 0 0 0 0 10ZM10.6 10.6 14 14",
  send: "M8 13V3M3.8 7.2 8 3l4.2 4.2",
  copy: "M5.5 5.5V3.2c0-.4.3-.7.7-.7h6.6c.4 0 .7.3.7.7v6.6c0 .4-.3.7-.7.7h-2.3M3.2 5.5h6.6c.4 0 .7.3.7.7v6.6c0 .4-.3.7-.7.7H3.2a.7.7 0 0 1-.7-.7V6.2c0-.4.3-.7.7-.7Z",
  again: "M13 8a5 5 0 1 1-1.5-3.5L13 6M13 2.5V6H9.5",
  edit: "m10.5 3 2.5 2.5L6 12.5l-3.2.7.7-3.2L10.5 3Z",
  left: "M10 3 5 8l5 5",
  right: "m6 3 5 5-5 5",
  menu: "M2.5 4.5h11M2.5 8h11M2.5 11.5h11",
  close: "m3.5 3.5 9 9M12.5 3.5l-9 9",
  trash: "M3 4.5h10M6.5 4.5V3h3v1.5M4.5 4.5l.5 8.5h6l.5-8.5",
  down: "M8 3v10M3.8 8.8 8 13l4.2-4.2",
  columns: "M2.5 3h3v10h-3zM6.5 3h3v10h-3zM10.5 3h3v10h-3z",
  sun: "M8 5a3 3 0 1 0 0 6 3 3 0 0 0 0-6ZM8 1.2v1.6M8 13.2v1.6M1.2 8h1.6M13.2 8h1.6M3.2 3.2l1.1 1.1M11.7 11.7l1.1 1.1M12.8 3.2l-1.1 1.1M4.3 11.7l-1.1 1.1",
  moon: "M13 9.6A5.6 5.6 0 0 1 6.4 3a5.6 5.6 0 1 0 6.6 6.6Z",
  auto: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2ZM8 2v12M8 5l4.6-1M8 8h6M8 11l4.6 1",
  sliders: "M2.5 4.5h6M11.5 4.5h2M10 3v3M2.5 11.5h2M7.5 11.5h6M6 10v3",
  export: "M8 2.5V10M5 7.2 8 10.2l3-3M2.8 11v2h10.4v-2",
  keyboard: "M1.8 4h12.4v8H1.8zM4 6.5h.1M6.6 6.5h.1M9.3 6.5h.1M12 6.5h.1M5 9.5h6",
  system: "M3 3.5h10v9H3zM5.2 6.2 7 8l-1.8 1.8M8.2 10h2.6",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }): JSX.Element {
  return (
    <svg class="icon" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}

/** An eft, the red one, seen from above. */
export function Eft(): JSX.Element {
  return (
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
      <g fill="none" stroke="currentColor" stroke-linecap="round" stroke-linejoin="round">
        <path stroke-width="5" d="M20.5 7.5c-3.6 2.2-6.2 4.6-6.4 8.3-.1 2.3 1.2 3.8 1.2 5.4" />
        <path stroke-width="2.6" d="M15.3 21.2c.1 3.4-2 5.8-6.3 6.3" />
        <path
          stroke-width="1.9"
          d="m17.6 10.6 5.2 2.9 2.7-1M15.4 11.3l-5.2-2.9-1.1-2.8M15 18.6l5.3 1.3 1.6 3M13.6 17.8l-5.1-.2-2 2.3"
        />
      </g>
      <ellipse cx="22.6" cy="6.2" rx="3.9" ry="3.1" transform="rotate(-34 22.6 6.2)" fill="currentColor" />
    </svg>
  );
}

interface ButtonProps {
  icon: IconName;
  label: string;
  onClick: (event: MouseEvent) => void;
  pressed?: boolean;
  disabled?: boolean;
  class?: string;
}

/** A button that shows only an icon; its name is its tooltip. */
export function IconButton({ icon, label, onClick, pressed, disabled, class: extra }: ButtonProps): JSX.Element {
  return (
    <button
      type="button"
      class={`icon-button ${extra ?? ""}`}
      aria-label={label}
      title={label}
      {...(pressed === undefined ? {} : { "aria-pressed": pressed })}
      disabled={disabled ?? false}
      onClick={onClick}
    >
      <Icon name={icon} />
    </button>
  );
}
