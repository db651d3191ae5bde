/** What the server's API sends and takes. */

/** A conversation's, in hexadecimal. */
export type ConversationId = string;
/** A message's; negative for one that the history could not take. */
export type MessageId = number;
/** Of an answer while it is being written. */
export type AnswerId = string;
export type Mode = "eft" | "base" | "tuned" | "reference";
export type Origin = "plain" | "accepted" | "corrected" | "bonus";
export type Candidate = [text: string, logprob: number];

/** One token of an answer. */
export interface Token {
  /** What became visible with it; empty while UTF-8 or a stop string is held back. */
  t: string;
  /** Its own text. */
  p: string;
  /** How far the base changed the tuned model's mind, 0 to 1. */
  s: number | null;
  o: Origin;
  l: number;
  /** Likeliest candidates by member's name, and of the composite under "eft". */
  top?: Record<string, Candidate[]>;
}

export interface Drafts {
  n_drafted: number;
  n_accepted: number;
}

/** Statistics of one answer. */
export interface Result {
  n_prompt?: number;
  n_reused?: number;
  n_tokens?: number;
  prompt_s?: number;
  decode_s?: number;
  tokens_per_s?: number;
  shift?: number | null;
  drafts?: Drafts | null;
  seed?: number;
  error?: string;
}

export interface KnobValues {
  alpha?: number;
  beta?: number;
  conservative_p?: number;
  deltas?: Record<string, number>;
  temperature?: number;
}

export interface SamplingValues {
  temperature?: number;
  seed?: number;
}

export interface Message {
  id: MessageId;
  parent: MessageId | null;
  role: "user" | "assistant";
  content: string;
  /** complete; an answer may also be streaming, stopped, failed or interrupted. */
  state: string;
  /** Who answers; empty for the user. */
  mode: Mode | "";
  settings: Settings;
  result: Result;
}

/** Under what an answer was asked for. Answers that were asked for together share their seed. */
export interface Settings {
  sampling?: SamplingValues;
  knobs?: KnobValues;
}

export interface Conversation {
  id: ConversationId;
  title: string;
  system: string;
  leaf: MessageId | null;
  messages: Message[];
}

export interface Summary {
  id: ConversationId;
  title: string;
  /** Seconds since 1970. */
  updated: number;
  /** The text around what was searched for, or the beginning of the last message. */
  preview: string;
}

export interface Member {
  name: string;
  file: string;
  description: string;
  n_params: number;
  size_bytes: number;
}

/** What is known of the server from its start. */
export interface About {
  version: string;
  state: "loading" | "ready" | "restarting" | "failed" | "closed";
  failure?: string;
  sampling: { temperature: number };
}

/** What is known once the models were loaded. */
export interface Engine extends About {
  family: string;
  modes: Mode[];
  members: Member[];
  deltas: { name: string; alpha: number }[];
  knobs: { beta: number; conservative_p: number | null };
  n_ctx: number;
  memory: { resident?: number };
  suggestions: string[];
}

export interface AnswerRequest {
  content?: string;
  parent: MessageId | null;
  modes: Mode[];
  sampling?: SamplingValues;
  knobs?: KnobValues;
  n_top: number;
}

export interface ErrorBody {
  message: string;
  type?: string;
  code?: string | null;
}

/** What the stream of answers brings. */
export type AnswerEvent =
  | { event: "user"; data: { id: MessageId } }
  | { event: "answer"; data: { mode: Mode; message_id: MessageId | null; answer_id: AnswerId } }
  | { event: "tokens"; data: { mode: Mode; tokens: Token[] } }
  | { event: "done"; data: { mode: Mode; state: string; finish_reason?: string | null; result: Result } }
  | { event: "error"; data: { mode?: Mode; error: ErrorBody } };
