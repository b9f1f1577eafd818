/**
 * Conversations as a file: written, and read again with nothing of it trusted.
 *
 * What is read is checked field by field and made anew, so that an unknown member never reaches the store. A file of
 * llama.cpp's page is understood too. Invariant: what was exported and is imported into an empty history is exported
 * again with the same bytes.
 */
import type { Role, TokenNote, ToolCall } from "../server/types";
import { type Answer, type Conversation, DEFAULT_OPTIONS, type Message, newId, pathTo, titleOf } from "./model";

export const MAX_FILE_BYTES = 128 << 20;
const FORMAT = "miaotui-conversations";
const MAX_MESSAGES = 200_000;
const MAX_TEXT = 32 << 20;
const ROLES: readonly Role[] = ["system", "user", "assistant", "tool"];

/** A file that holds no conversations; the code says why. */
export class ImportError extends Error {
  constructor(readonly code: "not-json" | "unknown-format" | "too-large" | "broken") {
    super(code);
    this.name = "ImportError";
  }
}

export interface Imported {
  conversations: Conversation[];
  messages: Message[];
}

export function exported(conversations: readonly Conversation[], messages: readonly Message[]): string {
  const chats = [...conversations].sort(byAge).map((each) => ({
    ...conversationFrom(each as unknown as Json),
    messages: messages
      .filter((message) => message.conversation === each.id)
      .sort(byAge)
      .map((message) => messageFrom(message as unknown as Json, each.id)),
  }));
  return `${JSON.stringify({ format: FORMAT, version: 1, conversations: chats }, null, 1)}\n`;
}

function byAge(a: { created: number; id: string }, b: { created: number; id: string }): number {
  return a.created - b.created || (a.id < b.id ? -1 : 1);
}

/** Return conversations with new ids for those of which any id is `taken`: a file replaces nothing. */
export function withFreshIds(found: Imported, taken: ReadonlySet<string>): Imported {
  const fresh: Imported = { conversations: [], messages: [] };
  for (const conversation of found.conversations) {
    const messages = found.messages.filter((each) => each.conversation === conversation.id);
    const ids = [conversation.id, ...messages.map((each) => each.id)];
    const clash = ids.some((id) => taken.has(id));
    const names = new Map(ids.map((id) => [id, clash ? newId() : id]));
    const renamed = (id: string | null): string | null => (id === null ? null : (names.get(id) as string));
    const own = names.get(conversation.id) as string;
    fresh.conversations.push({ ...conversation, id: own, leaf: renamed(conversation.leaf) });
    for (const each of messages)
      fresh.messages.push({ ...each, id: names.get(each.id) as string, conversation: own, parent: renamed(each.parent) });
  }
  return fresh;
}

type Json = Record<string, unknown>;

/** Read a file's text. Throws `ImportError`. */
export function imported(text: string): Imported {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new ImportError("not-json");
  }
  const chats = isObject(value) && value.format === FORMAT ? value.conversations : fromLlama(value);
  if (!Array.isArray(chats)) throw new ImportError("unknown-format");
  const result: Imported = { conversations: [], messages: [] };
  for (const chat of chats) {
    if (!isObject(chat) || !Array.isArray(chat.messages)) throw new ImportError("broken");
    const conversation = conversationFrom(chat);
    const messages = chat.messages.map((each) => messageFrom(asObject(each), conversation.id));
    checkTree(conversation, messages);
    result.conversations.push(conversation);
    for (const message of messages) result.messages.push(message);
    if (result.messages.length > MAX_MESSAGES) throw new ImportError("too-large");
  }
  return result;
}

/** Return llama.cpp's `[{conv, messages}]` in our form; undefined if it is something else. */
function fromLlama(value: unknown): unknown {
  const list = Array.isArray(value) ? value : [value];
  if (!list.length || !list.every((each) => isObject(each) && isObject(each.conv) && Array.isArray(each.messages))) return undefined;
  return list.map((each: { conv: Json; messages: Json[] }) => {
    const kept = each.messages.filter((message) => message.type !== "root");
    const known = new Set(kept.map((message) => message.id));
    const messages = kept.map((message) => ({
      id: message.id,
      parent: known.has(message.parent) ? message.parent : null,
      role: message.role,
      content: message.content,
      reasoning: message.thinking ?? message.reasoningContent ?? "",
      created: message.timestamp,
    }));
    const { id, name, lastModified, currNode } = each.conv;
    const leaf = known.has(currNode) ? currNode : (messages[messages.length - 1]?.id ?? null);
    return { id, title: name, created: lastModified, updated: lastModified, leaf, messages };
  });
}

function conversationFrom(value: Json): Conversation {
  const options = isObject(value.options) ? value.options : {};
  const chosen = { ...DEFAULT_OPTIONS } as unknown as Json;
  for (const [name, usual] of Object.entries(DEFAULT_OPTIONS)) {
    const given = options[name];
    const sound = usual === null ? given === null || isNumber(given) : typeof given === typeof usual;
    if (sound) chosen[name] = given;
  }
  if (!["refuse", "shorten", "best_effort"].includes(chosen.onLate as string)) chosen.onLate = DEFAULT_OPTIONS.onLate;
  return {
    id: identifier(value.id),
    title: titleOf(text(value.title)),
    created: moment(value.created),
    updated: moment(value.updated),
    leaf: value.leaf == null ? null : identifier(value.leaf),
    options: chosen as unknown as Conversation["options"],
  };
}

function messageFrom(value: Json, conversation: string): Message {
  const role = ROLES.find((each) => each === value.role);
  if (!role) throw new ImportError("broken");
  return {
    id: identifier(value.id),
    conversation,
    parent: value.parent == null ? null : identifier(value.parent),
    role,
    content: text(value.content),
    reasoning: text(value.reasoning ?? ""),
    toolCalls: Array.isArray(value.toolCalls) ? value.toolCalls.map(toolCallFrom) : [],
    toolCallId: value.toolCallId == null ? null : text(value.toolCallId),
    created: moment(value.created),
    answer: isObject(value.answer) ? answerFrom(value.answer) : null,
  };
}

function toolCallFrom(value: unknown): ToolCall {
  const call = asObject(value);
  const { name, arguments: given } = asObject(call.function);
  return { id: text(call.id), type: "function", function: { name: text(name), arguments: text(given) } };
}

/** Return what the page shows of an imported answer: a running one has stopped, and its request is not asked again. */
function answerFrom(value: Json): Answer {
  const state = value.state === "done" || value.state === "failed" ? value.state : "stopped";
  const tokens = Array.isArray(value.tokens) ? value.tokens.map(tokenFrom) : [];
  const request: Json = isObject(value.request) ? value.request : {};
  const kept: Answer["request"] = {};
  if (typeof request.model === "string") kept.model = request.model;
  if (isNumber(request.seed)) kept.seed = request.seed;
  return {
    state,
    request: kept,
    tokens,
    finish: typeof value.finish === "string" ? value.finish : null,
    error: typeof value.error === "string" ? value.error : null,
    usage: null,
    deadline: null,
    timeline: null,
  };
}

function tokenFrom(value: unknown): TokenNote {
  const { id, text: spelled, source } = asObject(value);
  if (!isNumber(id)) throw new ImportError("broken");
  return { id, text: text(spelled), source: text(source).slice(0, 32) };
}

function checkTree(conversation: Conversation, messages: readonly Message[]): void {
  const parents = new Map(messages.map((each) => [each.id, each.parent]));
  if (parents.size !== messages.length) throw new ImportError("broken");
  if (conversation.leaf !== null && !parents.has(conversation.leaf)) throw new ImportError("broken");
  for (const { parent } of messages) if (parent !== null && !parents.has(parent)) throw new ImportError("broken");
  const rooted = new Set<string>();
  for (const { id } of messages) {
    const path = pathTo(id, (each) => (rooted.has(each) ? null : parents.get(each)));
    const top = path[0] as string;
    if (!rooted.has(top) && parents.get(top) !== null) throw new ImportError("broken");
    for (const each of path) rooted.add(each);
  }
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function asObject(value: unknown): Json {
  if (!isObject(value)) throw new ImportError("broken");
  return value;
}

function isNumber(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value);
}

function text(value: unknown): string {
  if (typeof value !== "string" || value.length > MAX_TEXT) throw new ImportError("broken");
  return value;
}

function identifier(value: unknown): string {
  const id = typeof value === "number" ? String(value) : value;
  if (typeof id !== "string" || !/^[\w-]{1,64}$/.test(id)) throw new ImportError("broken");
  return id;
}

function moment(value: unknown): number {
  if (!isNumber(value) || value < 0 || value > 1e15) throw new ImportError("broken");
  return value;
}
