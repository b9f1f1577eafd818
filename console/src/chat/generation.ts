/**
 * Answers on their way: asked for, read as they come, stopped, and taken up again after a reload.
 *
 * Owns one controller for each running answer. An answer that goes on is asked for with the tokens that it has; the server
 * begins with their text, so that what is shown is the text of the whole answer, however often it was broken off.
 */
import { signal } from "@preact/signals";
import { request, ServerError, streamError } from "../server/http";
import { eventsOf } from "../server/events";
import type { ChatBody, ChatChunk, TokenNote, ToolCall } from "../server/types";
import * as store from "../store/conversations";
import { type Answer, type ChatOptions, type Conversation, type Message, pathTo } from "../store/model";
import { messagesFor, requestFor } from "./requests";

const SHOW_MS = 80; // between two renderings of a streamed answer, at least
const SAVE_MS = 400; // between two writes of it to the history, likewise
const SHARE = 0.04; // of the time that renderings and writes may take, however long the answer is

const running = new Map<string, AbortController>();

/** Ids of the answers that this page reads now. */
export const runningIds = signal<ReadonlySet<string>>(new Set());

/** Return a promise that is kept in a later task, so that the browser can draw and take input before. */
function nextTask(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve));
}

/** Add a person's message below `parent`, and ask for its answer. Throws `ServerError` for options that are wrong. */
export function send(conversation: Conversation, parent: string | null, content: string): void {
  const asked = requestFor(conversation.options);
  const message = store.add(conversation, parent, { role: "user", content });
  answer(conversation, message.id, asked);
}

/** Ask for another answer to a message. */
export function regenerate(conversation: Conversation, parent: string | null): void {
  answer(conversation, parent, requestFor(conversation.options));
}

/** Take an answer up where it ended; `tokens` may differ from its own, to go on from an alternative. */
export function goOn(conversation: Conversation, message: Message, tokens?: readonly TokenNote[]): void {
  const asked = { ...requestFor(conversation.options), ...(message.answer?.request ?? {}) };
  if (message.answer?.finish === "length") delete asked.max_tokens;
  delete asked.deadline_ms;
  delete asked.on_late;
  const old = message.answer;
  if (tokens === undefined && old?.tokens.length) {
    store.update(message.id, { answer: { ...fresh(asked), tokens: old.tokens } });
    void run(message.id, conversation.options);
    return;
  }
  const begun = tokens === undefined ? { content: message.content } : {};
  const made = store.add(conversation, message.parent, {
    role: "assistant",
    ...begun,
    answer: { ...fresh(asked), tokens: [...(tokens ?? [])] },
  });
  void run(made.id, conversation.options);
}

function answer(conversation: Conversation, parent: string | null, asked: Answer["request"]): void {
  const made = store.add(conversation, parent, { role: "assistant", answer: fresh(asked) });
  void run(made.id, conversation.options);
}

function fresh(asked: Answer["request"]): Answer {
  return {
    state: "pending",
    request: asked,
    tokens: [],
    finish: null,
    error: null,
    usage: null,
    deadline: null,
    timeline: null,
  };
}

export function stop(id: string): void {
  running.get(id)?.abort();
}

/** Take up answers of the open conversation that a reload broke off, unless another tab reads them. */
export function resume(conversation: Conversation, messages: readonly Message[]): void {
  for (const message of messages)
    if (message.answer?.state === "pending" && !running.has(message.id)) void run(message.id, conversation.options);
}

/** Return the whole body of the request for an answer, as it was or would be sent. */
export function bodyOf(message: Message, options: ChatOptions): ChatBody {
  const parents = pathTo(message.parent, (id) => store.messageSignal(id)?.peek().parent);
  const asked = message.answer?.request ?? requestFor(options);
  return { ...asked, messages: messagesFor(options, store.messagesOn(parents)) };
}

async function run(id: string, options: ChatOptions): Promise<void> {
  const controller = new AbortController();
  running.set(id, controller);
  runningIds.value = new Set(running.keys());
  const work = (): Promise<void> => new AnswerReader(id, options, controller.signal).read();
  try {
    if (navigator.locks) await navigator.locks.request(`miaotui-answer-${id}`, { ifAvailable: true }, (lock) => lock && work());
    else await work();
  } finally {
    running.delete(id);
    runningIds.value = new Set(running.keys());
  }
}

/** Reads the stream of one answer into its message. */
class AnswerReader {
  private content: string;
  private reasoning: string;
  private calls: ToolCall[];
  private answer: Answer;
  private readonly begun: readonly TokenNote[]; // which the request begins with, and the server sends again
  private isFirst = true;
  private shownMs = 0;
  private showCostMs = 0;
  private savedMs = 0;
  private saveCostMs = 0;
  private timer = 0;

  constructor(
    private readonly id: string,
    private readonly options: ChatOptions,
    private readonly signal: AbortSignal,
  ) {
    const message = this.message();
    this.content = message.content;
    this.reasoning = message.reasoning;
    this.calls = [...message.toolCalls];
    this.answer = { ...(message.answer as Answer), state: "pending", error: null };
    this.begun = this.answer.tokens;
  }

  async read(): Promise<void> {
    try {
      const response = await request("v1/chat/completions", { body: this.body(), signal: this.signal });
      const events = eventsOf<ChatChunk>(response);
      for (let next = await events.next(); !next.done; next = await events.next()) {
        if (this.signal.aborted) break;
        this.take(next.value);
      }
      if (this.signal.aborted) throw new DOMException("stopped", "AbortError");
      if (this.answer.finish === null) throw new ServerError(0, { message: "the stream broke off" });
      await this.end("done", null);
    } catch (error) {
      await this.fail(error);
    }
  }

  private message(): Message {
    const found = store.messageSignal(this.id)?.peek();
    if (!found) throw new Error(`message ${this.id} is gone`);
    return found;
  }

  private body(): ChatBody {
    const message = this.message();
    const body = bodyOf(message, this.options);
    if (this.begun.length) {
      delete body.deadline_ms; // it counted from the first request
      delete body.on_late;
      return { ...body, answer_token_ids: this.begun.map((token) => token.id) };
    }
    if (!message.content) return body;
    const begun = { role: "assistant" as const, content: message.content };
    return { ...body, messages: [...body.messages, begun], continue_final_message: true };
  }

  private take(chunk: ChatChunk): void {
    if (chunk.error) throw streamError(chunk.error);
    if (chunk.usage) this.answer.usage = chunk.usage;
    if (chunk.deadline) this.answer.deadline = chunk.deadline;
    const choice = chunk.choices[0];
    if (!choice) return;
    if (this.isFirst) this.startAnew();
    const { delta } = choice;
    this.content += delta.content ?? "";
    this.reasoning += delta.reasoning_content ?? "";
    for (const piece of delta.tool_calls ?? []) {
      const call = (this.calls[piece.index] ??= { id: piece.id ?? "", type: "function", function: { name: "", arguments: "" } });
      call.function.name += piece.function?.name ?? "";
      call.function.arguments += piece.function?.arguments ?? "";
    }
    this.note(choice);
    this.show();
  }

  /** Drop what the server sends again: the text of the tokens that the request began with. */
  private startAnew(): void {
    this.isFirst = false;
    if (!this.begun.length) return;
    this.content = this.reasoning = "";
    this.calls = [];
    this.answer.tokens = [];
  }

  private note(choice: ChatChunk["choices"][number]): void {
    const { tokens } = this.answer;
    for (const token of choice.tokens ?? []) tokens.push(this.begun[tokens.length] ?? token);
    if (choice.timeline) this.answer.timeline = choice.timeline;
    if (choice.finish_reason) this.answer.finish = choice.finish_reason;
  }

  /** Show what has come, now or in a moment; several chunks are shown together. */
  private show(): void {
    if (this.timer) return;
    const wait = Math.max(0, this.shownMs + Math.max(SHOW_MS, this.showCostMs / SHARE) - performance.now());
    this.timer = window.setTimeout(() => {
      this.timer = 0;
      const begun = performance.now();
      this.put("pending", null, false);
      setTimeout(() => {
        this.shownMs = performance.now(); // what was put is rendered by now
        this.showCostMs = this.shownMs - begun;
        this.saveIfDue();
      });
    }, wait);
  }

  private saveIfDue(): void {
    const begun = performance.now();
    if (begun - this.savedMs <= Math.max(SAVE_MS, this.saveCostMs / SHARE)) return;
    store.save(this.id);
    this.savedMs = performance.now();
    this.saveCostMs = this.savedMs - begun;
  }

  private put(state: Answer["state"], error: string | null, save: boolean): void {
    const { content, reasoning } = this;
    const answer = { ...this.answer, state, error };
    store.update(this.id, { content, reasoning, toolCalls: [...this.calls], answer }, save);
  }

  /** Show the last text, then save it, each in a task of its own; what an ended answer has beside its text comes after both. */
  private async end(state: Answer["state"], error: string | null): Promise<void> {
    window.clearTimeout(this.timer);
    this.put(state, error, isLeaving);
    if (isLeaving) return;
    await nextTask();
    store.save(this.id);
    await nextTask();
  }

  private async fail(error: unknown): Promise<void> {
    if (isLeaving) return this.end("pending", null); // the page goes: the answer goes on when it comes back
    if (this.signal.aborted) return this.end("stopped", null);
    this.end("failed", failureTexts.describe(error));
  }
}

const LEAVING_MS = 3000; // a page that is here for so long after it was about to go has stayed

let isLeaving = false;
function leave(): void {
  isLeaving = true;
  setTimeout(() => (isLeaving = false), LEAVING_MS);
}
addEventListener("beforeunload", leave); // a stream may break off before `pagehide`
addEventListener("pagehide", leave);

/** Puts failures into words; `ui/failures` sets it, since it knows the person's language. */
export const failureTexts = { describe: (error: unknown): string => String(error) };
