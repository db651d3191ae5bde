/** Numbers and times as people read them. Pure. */

const MINUS = "\u2212";

/** A number with a fixed count of decimals and a real minus sign. */
export const fixed = (value: number, digits: number): string => value.toFixed(digits).replace("-", MINUS);

/** A share of one as a percentage; small ones keep a decimal. */
export function percent(share: number): string {
  const value = share * 100;
  if (value > 0 && value < 0.1) return "<0.1 %";
  return `${fixed(value, value > 0 && value < 9.95 ? 1 : 0)} %`;
}

/** A share of one without its leading zero, as the manual writes them. */
export const share = (value: number): string => fixed(value, 2).replace(/^0\./, ".");

/** Bytes in units of 1000. */
export function bytes(count: number): string {
  if (count < 1e6) return `${fixed(count / 1e3, 0)} kB`;
  if (count < 1e9) return `${fixed(count / 1e6, count < 1e7 ? 1 : 0)} MB`;
  return `${fixed(count / 1e9, count < 1e10 ? 2 : 1)} GB`;
}

/** A count of parameters. */
export function parameters(count: number): string {
  if (count < 1e9) return `${fixed(count / 1e6, count < 1e7 ? 1 : 0)} M`;
  return `${fixed(count / 1e9, count < 1e10 ? 1 : 0)} B`;
}

export const speed = (tokensPerSecond: number): string =>
  `${fixed(tokensPerSecond, tokensPerSecond < 10 ? 1 : 0)} tokens/s`;

const DAY = 24 * 60 * 60 * 1000;

/** The heading under which a conversation is listed; times in milliseconds since 1970. */
export function day(at: number, now = Date.now()): string {
  const today = new Date(now).setHours(0, 0, 0, 0);
  if (at >= today) return "Today";
  if (at >= today - DAY) return "Yesterday";
  if (at >= today - 7 * DAY) return "Last seven days";
  return new Date(at).toLocaleDateString(undefined, { month: "long", year: "numeric" });
}
