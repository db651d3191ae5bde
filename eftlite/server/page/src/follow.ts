/** Follows one stream of answers and keeps the state in step with it. */

import { signal } from "@preact/signals";
import * as api from "./api";
import { addMessage, changeMessage, refresh, update } from "./conversations";
import { knobValues } from "./knobs";
import { complain, type Live, live, put, type Run, runs } from "./state";
import { keepTokens } from "./tokens";
import type { AnswerEvent, AnswerId, AnswerRequest, ConversationId, MessageId, Mode, Result, Token } from "./types";

/** How often text that arrived is shown, at most; a timer, because frames do not come while a tab is hidden. */
const SHOW_MS = 30;
/** Showing takes no more than one part in so many of the time: the models need the same processor. */
const REST = 3;

/** Ids of messages that the history could not take; and what answers that were asked for together have in common until
 * their seed is known. Both count down, so that they are nobody else's. */
let own = 0;

/** Ask, and follow the answers to their end. Resolves once the server took the question, with false if it did not. */
export function follow(conversation: ConversationId, body: AnswerRequest): Promise<boolean> {
  const follower = new Follower(conversation, body);
  void follower.follow();
  return follower.accepted;
}

class Follower {
  readonly accepted: Promise<boolean>;
  private readonly run: Run;
  private accept!: (accepted: boolean) => void;
  private user: MessageId | null;
  private readonly seed = (own -= 1);
  private readonly problems = new Map<Mode, string>();
  private waiting = new Map<MessageId, Token[]>();
  private timer: ReturnType<typeof setTimeout> | undefined;
  private pauseMs = SHOW_MS;

  constructor(
    private readonly conversation: ConversationId,
    private readonly body: AnswerRequest,
  ) {
    this.accepted = new Promise((resolve) => (this.accept = resolve));
    this.run = { abort: new AbortController(), modes: body.modes, messages: new Map(), stopping: false };
    this.user = body.content === undefined ? body.parent : null;
  }

  async follow(): Promise<void> {
    const { signal } = this.run.abort;
    put(runs, this.conversation, this.run);
    try {
      for await (const event of api.streamAnswers(this.conversation, this.body, signal)) this.take(event);
    } catch (error) {
      if (!signal.aborted) complain(error);
    } finally {
      this.end();
      put(runs, this.conversation, undefined);
      void refresh();
    }
  }

  private take(event: AnswerEvent): void {
    if (event.event === "user") this.onUser(event.data.id);
    else if (event.event === "answer") this.onAnswer(event.data);
    else if (event.event === "tokens") this.onTokens(event.data);
    else if (event.event === "done") this.finish(event.data.mode, event.data.state, event.data.result);
    else if (event.event === "error") this.onError(event.data.mode, event.data.error.message);
  }

  /** Whatever was not finished by an event was cut off. */
  private end(): void {
    clearTimeout(this.timer);
    this.accept(false);
    for (const mode of this.run.messages.keys()) this.finish(mode, this.run.stopping ? "stopped" : "interrupted", {});
  }

  private onUser(id: MessageId): void {
    if (this.body.content === undefined) return;
    this.user = id;
    const content = this.body.content;
    const rest = { mode: "" as const, state: "complete", settings: {}, result: {} };
    addMessage(this.conversation, { id, parent: this.body.parent, role: "user", content, ...rest });
    update(this.conversation, () => ({ leaf: id }));
    this.accept(true);
    void refresh();
  }

  private onAnswer(data: { mode: Mode; message_id: MessageId | null; answer_id: AnswerId }): void {
    // An answer that the history could not take has no id there.
    const id = data.message_id ?? (own -= 1);
    // Nor has a question then; the answer still wants to be seen below it.
    if (this.user === null) this.onUser((own -= 1));
    const { mode, answer_id: answerId } = data;
    this.accept(true);
    // Below the question the newest take is shown.
    if (this.run.messages.size === 0) update(this.conversation, () => ({ leaf: this.user }));
    this.run.messages.set(mode, id);
    put(live, id, { answerId, mode, text: signal(""), tokens: signal([]) } satisfies Live);
    addMessage(this.conversation, {
      id,
      parent: this.user,
      role: "assistant",
      content: "",
      state: "streaming",
      mode,
      settings: { sampling: { seed: this.seed } },
      result: {},
    });
    if (mode === "eft") void this.catchUp(answerId);
  }

  /** A knob that was moved between the question and its answer. */
  private async catchUp(answerId: AnswerId): Promise<void> {
    const now = knobValues();
    if (JSON.stringify(now) !== JSON.stringify(this.body.knobs)) await api.changeAnswer(answerId, now).catch(complain);
  }

  private onTokens(data: { mode: Mode; tokens: Token[] }): void {
    const id = this.run.messages.get(data.mode);
    if (id === undefined) return;
    const before = this.waiting.get(id);
    if (before) before.push(...data.tokens);
    else this.waiting.set(id, [...data.tokens]);
    this.timer ??= setTimeout(() => this.show(), this.pauseMs);
  }

  private show(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    for (const [id, tokens] of this.waiting) {
      const answer = live.value.get(id);
      if (!answer) continue;
      answer.tokens.value = [...answer.tokens.value, ...tokens];
      answer.text.value += tokens.map((token) => token.t).join("");
    }
    this.waiting.clear();
    const began = performance.now();
    // Runs after everything that reads these signals.
    setTimeout(() => {
      this.pauseMs = Math.max(SHOW_MS, REST * (performance.now() - began));
    });
  }

  private finish(mode: Mode, state: string, result: Result): void {
    this.show();
    const id = this.run.messages.get(mode);
    const answer = id === undefined ? undefined : live.value.get(id);
    const problem = this.problems.get(mode);
    if (id === undefined || !answer) {
      if (problem) complain(problem);
      return;
    }
    const failed = state === "failed" && problem ? { error: problem } : {};
    keepTokens(id, answer.tokens.value);
    changeMessage(this.conversation, id, { content: answer.text.value, state, result: { ...result, ...failed } });
    put(live, id, undefined);
    if (problem && state !== "failed") complain(problem);
  }

  /** An answer that failed says so where it stands, when its "done" comes. */
  private onError(mode: Mode | undefined, message: string): void {
    if (mode) this.problems.set(mode, message);
    else complain(message);
  }
}
