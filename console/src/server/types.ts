/** Shapes of the server's requests and answers, as far as the console uses them. */

export type Role = "system" | "user" | "assistant" | "tool";

export interface ToolCall {
  id: string;
  type: "function";
  function: { name: string; arguments: string };
}

export interface ChatMessage {
  role: Role;
  content: string;
  reasoning_content?: string;
  tool_calls?: ToolCall[];
  tool_call_id?: string;
}

export type OnLate = "refuse" | "shorten" | "best_effort";

/** The body of a chat request; members that are undefined are left out. */
export interface ChatBody {
  model?: string;
  messages: ChatMessage[];
  stream?: boolean;
  stream_options?: { include_usage: boolean };
  seed?: number;
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  repetition_penalty?: number;
  max_tokens?: number;
  deadline_ms?: number;
  on_late?: OnLate;
  logprobs?: boolean;
  top_logprobs?: number;
  response_format?: unknown;
  tools?: unknown[];
  chat_template_kwargs?: Record<string, unknown>;
  continue_final_message?: boolean;
  answer_token_ids?: number[];
  explain?: boolean;
}

/** A token that could have stood at a place of the answer; its log-probability is in nats. */
export type Alternative = [id: number, text: string, logprob: number];

/** One token of an answer: its text, which source proposed it, and how likely it was, if that was asked for. */
export interface TokenNote {
  id: number;
  text: string;
  source: string;
  logprob?: number;
  alternatives?: Alternative[];
}

export interface DeadlineReport {
  asked_ms: number | null;
  predicted_ms: number | null;
  took_ms: number;
  met: boolean | null;
  shortened: boolean;
}

export interface Timeline {
  queue_ms: number;
  prefill_ms: number;
  cached_tokens: number;
  prompt_tokens: number;
  steps: [at_ms: number, tokens: number, drafted: number][];
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  prompt_tokens_details?: { cached_tokens: number };
}

interface ToolCallPiece {
  index: number;
  id?: string;
  function?: { name?: string; arguments?: string };
}

export interface ChatChunk {
  choices: {
    delta: { content?: string; reasoning_content?: string; tool_calls?: ToolCallPiece[] };
    tokens?: TokenNote[];
    timeline?: Timeline | null;
    finish_reason: string | null;
  }[];
  usage?: Usage | null;
  deadline?: DeadlineReport;
  cache?: string;
  error?: ErrorObject;
}

export interface ErrorObject {
  message: string;
  type?: string;
  param?: string | null;
  code?: string | null;
  predicted_ms?: number;
}

export interface ServedModel {
  id: string;
  kind: string;
  max_model_len: number;
  loaded: boolean;
  /** What requests to it can have; false and "none" are refused. */
  abilities?: Record<string, boolean | string>;
}

/** The server's prediction for a request that was not run. */
export interface PromiseAnswer {
  predicted_ms: number;
  fits: boolean;
  prompt_tokens: number;
  cached_tokens: number;
  answer_tokens: number;
  fitting_tokens: number | null;
}
