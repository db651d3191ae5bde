/** A conversation is a tree; these functions find the turns that are shown. Pure. */

import type { Message, MessageId } from "./types";

/** Answers that were asked for together, side by side. */
export type Take = Message[];

export interface Turn {
  user: Message;
  /** All versions of this turn, itself included, in the order they were written. */
  versions: Message[];
  takes: Take[];
  /** Index of the take that is shown; -1 when there is none yet. */
  shown: number;
  /** The answer that the conversation goes on from. */
  chosen: Message | null;
}

export function childrenOf(messages: Message[]): Map<MessageId | null, Message[]> {
  const result = new Map<MessageId | null, Message[]>();
  for (const message of messages) {
    const siblings = result.get(message.parent);
    if (siblings) siblings.push(message);
    else result.set(message.parent, [message]);
  }
  return result;
}

/** Ids from a message up to the root. */
export function ancestry(messages: Message[], leaf: MessageId | null): Set<MessageId> {
  const byId = new Map(messages.map((message) => [message.id, message]));
  const result = new Set<MessageId>();
  for (let at = leaf; at !== null && byId.has(at) && !result.has(at); at = byId.get(at)!.parent) result.add(at);
  return result;
}

const ORDER = ["base", "tuned", "reference", "eft", ""];

/** Siblings in groups that were asked for together, which is to say with one seed; the columns in one order. */
export function takesOf(answers: Message[]): Take[] {
  const groups = new Map<number | string, Take>();
  for (const answer of answers) {
    const key = answer.settings.sampling?.seed ?? `message ${answer.id}`;
    const group = groups.get(key) ?? [];
    // A seed that somebody asked for twice.
    if (group.some((other) => other.mode === answer.mode)) groups.set(`message ${answer.id}`, [answer]);
    else groups.set(key, [...group, answer]);
  }
  return [...groups.values()].map((take) => take.sort((a, b) => ORDER.indexOf(a.mode) - ORDER.indexOf(b.mode)));
}

/** The end of the newest branch below a message. */
export function deepest(messages: Message[], id: MessageId): MessageId {
  const children = childrenOf(messages);
  let at = id;
  for (let next = children.get(at); next?.length; next = children.get(at)) at = best(next).id;
  return at;
}

/** The newest of siblings; among answers of one take, EFT. */
function best(siblings: Message[]): Message {
  const newest = siblings.at(-1)!;
  if (newest.role === "user") return newest;
  return preferred(takesOf(siblings).at(-1)!);
}

/** The answer of a take that a conversation goes on from unless a person says otherwise. */
export function preferred(take: Take): Message {
  return take.find((answer) => answer.mode === "eft") ?? take.at(-1)!;
}

/** The turns along the branch that ends at a leaf; below the leaf, the newest branch. */
export function turnsOf(messages: Message[], leaf: MessageId | null): Turn[] {
  const children = childrenOf(messages);
  const path = ancestry(messages, leaf);
  const turns: Turn[] = [];
  let parent: MessageId | null = null;
  for (;;) {
    const versions: Message[] = (children.get(parent) ?? []).filter((message) => message.role === "user");
    if (!versions.length) return turns;
    const user = versions.find((message) => path.has(message.id)) ?? versions.at(-1)!;
    const answers = (children.get(user.id) ?? []).filter((message) => message.role === "assistant");
    const takes = takesOf(answers);
    const chosen = answers.find((message) => path.has(message.id)) ?? (takes.length ? preferred(takes.at(-1)!) : null);
    const shown = chosen ? takes.findIndex((take) => take.includes(chosen)) : -1;
    turns.push({ user, versions, takes, shown, chosen });
    if (!chosen) return turns;
    parent = chosen.id;
  }
}

/** The turns that stay when something new is said after a message: those up to the one that ends with it. */
export function turnsUntil(turns: Turn[], parent: MessageId | null): Turn[] {
  return turns.slice(0, turns.findIndex((turn) => turn.chosen?.id === parent) + 1);
}
