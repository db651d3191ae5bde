/** Opening, listing and changing conversations. */

import * as api from "./api";
import { complain, current, moreSummaries, newSystem, put, query, runs, summaries } from "./state";
import { deepest } from "./tree";
import type { Conversation, ConversationId, Message, MessageId } from "./types";

const PAGE = 50;
const SEARCH_MS = 120;

/** The conversation that the address names. */
const idInAddress = (): ConversationId | null => /^#\/c\/([0-9a-f]+)$/.exec(location.hash)?.[1] ?? null;

const addressOf = (id: ConversationId | null): string => (id === null ? "#/" : `#/c/${id}`);

function showAddress(id: ConversationId | null): void {
  if (location.hash !== addressOf(id)) history.pushState(null, "", addressOf(id));
}

let listing = 0;

/** Read the list anew, or its next page. */
export async function refresh(more = false): Promise<void> {
  const turn = (listing += 1);
  try {
    const found = await api.listConversations(query.value.trim(), more ? summaries.value.length : 0, PAGE);
    // A slower answer to an older question must not replace this one.
    if (turn !== listing) return;
    summaries.value = more ? [...summaries.value, ...found] : found;
    moreSummaries.value = found.length === PAGE;
    for (const { id, title } of found) update(id, () => ({ title }));
  } catch (error) {
    complain(error);
  }
}

export function startNew(): void {
  current.value = null;
  newSystem.value = "";
  showAddress(null);
}

export async function open(id: ConversationId): Promise<void> {
  try {
    current.value = await api.getConversation(id);
    showAddress(current.value.id);
  } catch (error) {
    if (error instanceof api.ApiError && error.status === 404) startNew();
    complain(error);
  }
}

/** Show what the address names. */
export async function followAddress(): Promise<void> {
  const id = idInAddress();
  if (id === null) current.value = null;
  else if (current.value?.id !== id) await open(id);
}

/** Show what the server has, after a time in which it was not known. */
export async function resume(): Promise<void> {
  const id = current.value?.id;
  await Promise.all([refresh(), id && !runs.value.has(id) ? open(id) : followAddress()]);
}

/** The open conversation, made first if there is none. */
export async function ensure(): Promise<Conversation> {
  if (current.value) return current.value;
  const system = newSystem.value.trim();
  const { id } = await api.createConversation({ system });
  current.value = { id, title: "", system, leaf: null, messages: [] };
  showAddress(id);
  return current.value;
}

/** Change the conversation if it is the open one. */
export function update(id: ConversationId, change: (conversation: Conversation) => Partial<Conversation>): void {
  if (current.value?.id === id) current.value = { ...current.value, ...change(current.value) };
}

export function addMessage(conversation: ConversationId, message: Message): void {
  update(conversation, ({ messages }) => ({ messages: [...messages, message] }));
}

export function changeMessage(conversation: ConversationId, id: MessageId, changes: Partial<Message>): void {
  update(conversation, ({ messages }) => ({
    messages: messages.map((message) => (message.id === id ? { ...message, ...changes } : message)),
  }));
}

/** Go to another version: of a turn, of an answer, or another of the columns. */
export async function choose(message: Message): Promise<void> {
  const open = current.value;
  if (!open) return;
  const leaf = deepest(open.messages, message.id);
  update(open.id, () => ({ leaf }));
  await api.changeConversation(open.id, { leaf }).catch(complain);
}

export async function rename(id: ConversationId, title: string): Promise<void> {
  summaries.value = summaries.value.map((summary) => (summary.id === id ? { ...summary, title } : summary));
  update(id, () => ({ title }));
  await api.changeConversation(id, { title }).catch(complain);
}

/** Set the system prompt of the open conversation, or of the one to come. */
export async function setSystem(system: string): Promise<void> {
  const open = current.value;
  if (!open) {
    newSystem.value = system;
    return;
  }
  update(open.id, () => ({ system }));
  await api.changeConversation(open.id, { system }).catch(complain);
}

export async function remove(id: ConversationId): Promise<void> {
  try {
    runs.value.get(id)?.abort.abort();
    put(runs, id, undefined);
    await api.deleteConversation(id);
    if (current.value?.id === id) startNew();
    await refresh();
  } catch (error) {
    complain(error);
  }
}

/** Save a conversation as a file. */
export async function download(id: ConversationId, title: string, format: "md" | "json"): Promise<void> {
  try {
    const address = URL.createObjectURL(await api.exportConversation(id, format));
    const anchor = document.createElement("a");
    anchor.href = address;
    anchor.download = `${
      title
        .replace(/[^\p{L}\p{N} _-]+/gu, "")
        .trim()
        .slice(0, 60) || "conversation"
    }.${format}`;
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  } catch (error) {
    complain(error);
  }
}

/** Keep the list in step with the search field. */
export function searchAsTyped(): void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  query.subscribe(() => {
    clearTimeout(timer);
    timer = setTimeout(() => void refresh(), SEARCH_MS);
  });
}
