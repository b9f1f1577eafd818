/**
 * What the console keeps: conversations as trees of messages.
 *
 * A message never changes once its answer has ended; to edit one is to add another with the same parent.
 */
import type { ChatBody, DeadlineReport, Role, Timeline, TokenNote, ToolCall, Usage } from "../server/types";

/** Choices of a conversation that go into each of its requests. */
export interface ChatOptions {
  model: string;
  system: string;
  temperature: number | null;
  topP: number | null;
  topK: number | null;
  maxTokens: number | null;
  seed: number | null;
  deadlineMs: number | null;
  onLate: "refuse" | "shorten" | "best_effort";
  probabilities: boolean;
  thinking: boolean;
  schema: string;
  tools: string;
}

export interface Conversation {
  id: string;
  title: string;
  created: number;
  updated: number;
  leaf: string | null;
  options: ChatOptions;
}

export type AnswerState = "pending" | "done" | "stopped" | "failed";

/** How an answer came about. `request` is the body that asked for it, without the messages. */
export interface Answer {
  state: AnswerState;
  request: Omit<ChatBody, "messages">;
  tokens: TokenNote[];
  finish: string | null;
  error: string | null;
  usage: Usage | null;
  deadline: DeadlineReport | null;
  timeline: Timeline | null;
}

export interface Message {
  id: string;
  conversation: string;
  parent: string | null;
  role: Role;
  content: string;
  reasoning: string;
  toolCalls: ToolCall[];
  toolCallId: string | null;
  created: number;
  answer: Answer | null;
}

export const DEFAULT_OPTIONS: ChatOptions = {
  model: "",
  system: "",
  temperature: null,
  topP: null,
  topK: null,
  maxTokens: null,
  seed: null,
  deadlineMs: null,
  onLate: "shorten",
  probabilities: false,
  thinking: true,
  schema: "",
  tools: "",
};

export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function titleOf(text: string): string {
  const line = text.trim().split("\n", 1)[0] ?? "";
  return line.length > 60 ? `${line.slice(0, 59)}…` : line;
}

/** Return the ids of the messages from the first one to `leaf`. */
export function pathTo(leaf: string | null, parentOf: (id: string) => string | null | undefined): string[] {
  const path: string[] = [];
  const seen = new Set<string>();
  for (let id = leaf; id !== null && !seen.has(id); ) {
    const parent = parentOf(id);
    if (parent === undefined) break;
    seen.add(id);
    path.push(id);
    id = parent;
  }
  return path.reverse();
}
