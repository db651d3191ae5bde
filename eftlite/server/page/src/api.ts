/** The server's API as functions. Knows HTTP and the key; shows nothing. */

import { EventSourceParserStream } from "eventsource-parser/stream";
import type {
  About,
  AnswerEvent,
  AnswerId,
  AnswerRequest,
  Conversation,
  ConversationId,
  Engine,
  ErrorBody,
  KnobValues,
  MessageId,
  Summary,
  Token,
} from "./types";

const KEY = "eftlite.key";

/** An answer of the server that is not 2xx; `status` 0 means that it could not be reached. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly retryAfter = 0,
  ) {
    super(message);
  }
}

/** Asks a person for the server's key; null when they give up. Set by the view. */
let askForKey: (wrong: boolean) => Promise<string | null> = async () => null;
let asking: Promise<string | null> | null = null;

export function onKeyNeeded(ask: typeof askForKey): void {
  askForKey = ask;
}

async function newKey(): Promise<boolean> {
  asking ??= askForKey(sessionStorage.getItem(KEY) !== null);
  const key = await asking;
  asking = null;
  if (key !== null) sessionStorage.setItem(KEY, key);
  return key !== null;
}

function headers(body: unknown): Headers {
  const result = new Headers();
  const key = sessionStorage.getItem(KEY);
  if (key) result.set("Authorization", `Bearer ${key}`);
  if (body !== undefined) result.set("Content-Type", "application/json");
  return result;
}

/** One request; asks for a key as often as it is refused. */
async function request(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Response> {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const options: RequestInit = { method, headers: headers(body), credentials: "omit", cache: "no-store" };
    if (body !== undefined) options.body = JSON.stringify(body);
    if (signal) options.signal = signal;
    const response = await fetch(path, options).catch((error: unknown) => {
      if (signal?.aborted) throw error;
      throw new ApiError(0, "The server cannot be reached");
    });
    if (response.ok) return response;
    const replaced = sessionStorage.getItem(KEY) !== key;
    if (response.status === 401 && (replaced || (await newKey()))) continue;
    throw await failure(response);
  }
}

async function failure(response: Response): Promise<ApiError> {
  const body: { error?: ErrorBody } = await response.json().catch(() => ({}));
  const message = body.error?.message ?? `The server answered ${response.status}`;
  return new ApiError(response.status, message, Number(response.headers.get("Retry-After")) || 0);
}

async function json<T>(method: string, path: string, body?: unknown): Promise<T> {
  return (await request(method, path, body)).json();
}

const at = (id: ConversationId): string => `api/conversations/${encodeURIComponent(id)}`;

export const getAbout = (): Promise<About | Engine> => json("GET", "api/about");

export async function listConversations(query: string, offset: number, limit: number): Promise<Summary[]> {
  const search = new URLSearchParams({ query, offset: String(offset), limit: String(limit) });
  return (await json<{ conversations: Summary[] }>("GET", `api/conversations?${search}`)).conversations;
}

export const createConversation = (body: { system: string }): Promise<{ id: ConversationId }> =>
  json("POST", "api/conversations", body);

export const getConversation = (id: ConversationId): Promise<Conversation> => json("GET", at(id));

export async function changeConversation(
  id: ConversationId,
  changes: { title?: string; system?: string; leaf?: MessageId },
): Promise<void> {
  await request("PATCH", at(id), changes);
}

export async function deleteConversation(id: ConversationId): Promise<void> {
  await request("DELETE", at(id));
}

export const exportConversation = async (id: ConversationId, format: "md" | "json"): Promise<Blob> =>
  (await request("GET", `${at(id)}/export?format=${format}`)).blob();

export const getTokens = async (message: MessageId): Promise<Token[]> =>
  (await json<{ tokens: Token[] }>("GET", `api/messages/${message}/tokens`)).tokens;

/** Starts answers and yields what happens; aborting the signal ends them. */
export async function* streamAnswers(
  conversation: ConversationId,
  body: AnswerRequest,
  signal: AbortSignal,
): AsyncGenerator<AnswerEvent> {
  const response = await request("POST", `${at(conversation)}/answers`, body, signal);
  if (response.body === null) return;
  const events = response.body.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream());
  const reader = events.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      if (value.event) yield { event: value.event, data: JSON.parse(value.data) } as AnswerEvent;
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

export async function changeAnswer(answer: AnswerId, knobs: KnobValues): Promise<void> {
  await request("PATCH", `api/answers/${encodeURIComponent(answer)}`, { knobs });
}

export async function stopAnswer(answer: AnswerId): Promise<void> {
  await request("DELETE", `api/answers/${encodeURIComponent(answer)}`);
}
