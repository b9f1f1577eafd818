/**
 * From a conversation to the body of a request, and the same request as commands of other programs.
 *
 * Knows no streams. Invariant: equal messages and options give an equal body, so that an answer can be asked for again.
 */
import { ServerError, urlOf } from "../server/http";
import type { ChatBody, ChatMessage } from "../server/types";
import type { ChatOptions, Message } from "../store/model";

const SEEDS = 2 ** 31;

/** Members that only this page needs: they say what came of an answer. */
const OF_THE_PAGE = ["explain", "stream_options", "answer_token_ids"] as const;

export function messagesFor(options: ChatOptions, said: readonly Message[]): ChatMessage[] {
  const system: ChatMessage[] = options.system.trim() ? [{ role: "system", content: options.system }] : [];
  return [...system, ...said.map(wireMessage)];
}

function wireMessage(message: Message): ChatMessage {
  const wire: ChatMessage = { role: message.role, content: message.content };
  if (message.toolCalls.length) wire.tool_calls = message.toolCalls;
  if (message.toolCallId !== null) wire.tool_call_id = message.toolCallId;
  return wire;
}

/** Return a request's body without its messages. Throws `ServerError` for a schema or tools that are not JSON. */
export function requestFor(options: ChatOptions): Omit<ChatBody, "messages"> {
  const body: Omit<ChatBody, "messages"> = {
    stream: true,
    stream_options: { include_usage: true },
    seed: options.seed ?? Math.floor(Math.random() * SEEDS),
    explain: true,
  };
  if (options.model) body.model = options.model;
  if (options.temperature !== null) body.temperature = options.temperature;
  if (options.topP !== null) body.top_p = options.topP;
  if (options.topK !== null) body.top_k = options.topK;
  if (options.maxTokens !== null) body.max_tokens = options.maxTokens;
  if (options.deadlineMs !== null) Object.assign(body, { deadline_ms: options.deadlineMs, on_late: options.onLate });
  if (options.probabilities) Object.assign(body, { logprobs: true, top_logprobs: 5 });
  if (!options.thinking) body.chat_template_kwargs = { enable_thinking: false };
  if (options.schema.trim())
    body.response_format = {
      type: "json_schema",
      json_schema: { name: "answer", schema: jsonOf("response_format", options.schema), strict: true },
    };
  if (options.tools.trim()) body.tools = jsonOf("tools", options.tools) as unknown[];
  return body;
}

function jsonOf(field: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new ServerError(400, { message: String(error), param: field, code: "invalid_json" });
  }
}

/** Return the body as other programs would send it. */
function plain(body: ChatBody): ChatBody {
  const copy: ChatBody = { ...body };
  for (const name of OF_THE_PAGE) delete copy[name];
  return copy;
}

/** Return the request as a curl command for a POSIX shell. */
export function asCurl(body: ChatBody, withKey: boolean): string {
  const json = JSON.stringify(plain(body), null, 1).replaceAll("'", "'\\''");
  const key = withKey ? ' \\\n  -H "Authorization: Bearer $MIAOTUI_KEY"' : "";
  return `curl -N ${urlOf("v1/chat/completions")}${key} \\\n  -H "Content-Type: application/json" -d '${json}'\n`;
}

const OPENAI_NAMES = new Set([
  ...["model", "messages", "stream", "seed", "temperature", "top_p", "max_tokens", "response_format", "tools"],
  ...["logprobs", "top_logprobs"],
]);

/** Return the request as a Python program that uses OpenAI's client. */
export function asPython(body: ChatBody, withKey: boolean): string {
  const { model, ...rest } = plain(body);
  const entries = Object.entries({ model: model ?? "", ...rest });
  const known = entries.filter(([name]) => OPENAI_NAMES.has(name));
  const extra = Object.fromEntries(entries.filter(([name]) => !OPENAI_NAMES.has(name)));
  const lines = known.map(([name, value]) => `    ${name}=${pythonOf(value)},`);
  if (Object.keys(extra).length) lines.push(`    extra_body=${pythonOf(extra)},`);
  const key = withKey ? 'os.environ["MIAOTUI_KEY"]' : '"none"';
  return [
    ...(withKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${pythonOf(urlOf("v1"))}, api_key=${key})`,
    "stream = client.chat.completions.create(",
    ...lines,
    ")",
    "for chunk in stream:",
    "    if chunk.choices:",
    '        print(chunk.choices[0].delta.content or "", end="", flush=True)',
    "",
  ].join("\n");
}

/** Return a JSON value as a Python literal. JSON's strings are Python's, but for half characters, which neither needs. */
function pythonOf(value: unknown): string {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(pythonOf).join(", ")}]`;
  if (typeof value === "object")
    return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${pythonOf(each)}`).join(", ")}}`;
  return JSON.stringify(value);
}
