/**
 * The conversations in memory: their list, the open one, and the path through its tree that is shown.
 *
 * Each message is a signal of its own, so that a streamed answer renders one message. `structure` counts changes of the
 * tree itself. Everything that changes is saved.
 */
import { computed, type Signal, signal } from "@preact/signals";
import * as database from "./database";
import { type ChatOptions, type Conversation, DEFAULT_OPTIONS, type Message, newId, pathTo, titleOf } from "./model";
import { preferences } from "./preferences";
import { exported, type Imported, imported, withFreshIds } from "./transfer";

export const conversations = signal<Conversation[]>([]);
export const openId = signal<string | null>(null);
export const isOpening = signal(true);
const structure = signal(0);
const messages = new Map<string, Signal<Message>>();

export const current = computed(() => conversations.value.find((each) => each.id === openId.value) ?? null);

/** Ids of the messages that are shown, first to last. */
export const path = computed(() => {
  structure.value;
  return pathTo(current.value?.leaf ?? null, (id) => messages.get(id)?.peek().parent);
});

export function messageSignal(id: string): Signal<Message> | undefined {
  return messages.get(id);
}

export function messagesOn(ids: readonly string[]): Message[] {
  return ids.flatMap((id) => messages.get(id)?.peek() ?? []);
}

/** Ids of the messages below each parent, oldest first; one table for all messages that are shown. */
const children = computed(() => {
  structure.value;
  const found = new Map<string, Message[]>();
  for (const each of messages.values()) {
    const message = each.peek();
    const place = placeBelow(message.parent, message.conversation);
    const beside = found.get(place);
    if (beside) beside.push(message);
    else found.set(place, [message]);
  }
  for (const each of found.values()) each.sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1));
  return found;
});

function placeBelow(parent: string | null, conversation: string): string {
  return JSON.stringify([parent, conversation]);
}

/** Return the ids of the messages with the same parent, oldest first. */
export function siblingsOf(message: Message): string[] {
  return childrenOf(message.parent, message.conversation);
}

function childrenOf(parent: string | null, conversation: string): string[] {
  return children.value.get(placeBelow(parent, conversation))?.map((each) => each.id) ?? [];
}

/** Read the history, and open the newest conversation. */
export async function openHistory(): Promise<void> {
  const found = await database.loadConversations();
  const begun = new Set(conversations.value.map((each) => each.id)); // while the history was read
  conversations.value = [...conversations.value, ...found.filter((each) => !begun.has(each.id))].sort(newestFirst);
  const wanted = new URLSearchParams(location.hash.slice(1)).get("chat");
  const first = conversations.value.find((each) => each.id === wanted) ?? conversations.value[0];
  if (openId.value === null && first) await open(first.id);
  isOpening.value = false;
}

function newestFirst(a: Conversation, b: Conversation): number {
  return b.updated - a.updated;
}

let opening = 0;

export async function open(id: string | null): Promise<void> {
  const mine = ++opening;
  if (id === openId.value) return;
  const found = id === null ? [] : await database.loadMessages(id);
  if (mine === opening) show(id, found); // unless another one was opened meanwhile
}

/** Open a conversation with the messages that were found of it; those that still run stay as they are. */
function show(id: string | null, found: readonly Message[]): void {
  const unsaved = [...messages.values()].filter((each) => each.peek().conversation === id || isPending(each.peek()));
  messages.clear();
  for (const message of found) messages.set(message.id, signal(message));
  for (const each of unsaved) messages.set(each.peek().id, each);
  openId.value = id;
  structure.value++;
}

function isPending(message: Message): boolean {
  return message.answer?.state === "pending";
}

/** Make a conversation and open it, at once: what a person sends does not wait for the history. */
export function begin(options: ChatOptions, title: string): Conversation {
  const now = Date.now();
  const made: Conversation = { id: newId(), title, created: now, updated: now, leaf: null, options };
  conversations.value = [made, ...conversations.value];
  opening++;
  show(made.id, []);
  void database.saveConversation(made);
  return made;
}

export function defaultOptions(): ChatOptions {
  return { ...DEFAULT_OPTIONS, ...preferences.value.chat };
}

export function change(id: string, changes: Partial<Conversation>): void {
  const list = conversations.value.map((each) => (each.id === id ? { ...each, ...changes } : each));
  conversations.value = list;
  const changed = list.find((each) => each.id === id);
  if (changed) void database.saveConversation(changed);
}

let latest = 0;

/** Return the time in milliseconds; later than ever before, so that messages have an order. */
function nextMoment(): number {
  latest = Math.max(Date.now(), latest + 1);
  return latest;
}

/** Add a message below `parent`, and show the path to it. */
export function add(conversation: Conversation, parent: string | null, fields: Partial<Message> & { role: Message["role"] }): Message {
  const message: Message = {
    id: newId(),
    conversation: conversation.id,
    parent,
    content: "",
    reasoning: "",
    toolCalls: [],
    toolCallId: null,
    created: nextMoment(),
    answer: null,
    ...fields,
  };
  messages.set(message.id, signal(message));
  void database.saveMessage(message);
  const title = parent === null && message.role === "user" ? titleOf(message.content) : conversation.title;
  change(conversation.id, { leaf: message.id, updated: Date.now(), title: conversation.title || title });
  structure.value++;
  return message;
}

/** Change a message; `save` false: only what is shown, for the pieces of a stream. */
export function update(id: string, changes: Partial<Message>, save = true): void {
  const found = messages.get(id);
  if (!found) return;
  found.value = { ...found.peek(), ...changes };
  if (save) void database.saveMessage(found.peek());
}

/** Save a message as it is. */
export function save(id: string): void {
  const found = messages.get(id);
  if (found) void database.saveMessage(found.peek());
}

/** Show the newest path through a message. */
export function showBranch(id: string): void {
  const message = messages.get(id)?.peek();
  if (!message) return;
  let leaf = id;
  for (let below = childrenOf(leaf, message.conversation); below.length; ) {
    leaf = below[below.length - 1] as string;
    below = childrenOf(leaf, message.conversation);
  }
  change(message.conversation, { leaf });
  structure.value++;
}

/** Take the conversations of a file in, but for those that are here unchanged; return how many are new. */
export async function importFrom(text: string): Promise<number> {
  const found = imported(text);
  const news: Imported = { conversations: [], messages: [] };
  for (const conversation of found.conversations) {
    const texts = found.messages.filter((each) => each.conversation === conversation.id);
    const here = conversations.peek().find((each) => each.id === conversation.id);
    const same = here && exported([here], await database.loadMessages(here.id)) === exported([conversation], texts);
    if (same) continue;
    news.conversations.push(conversation);
    news.messages.push(...texts);
  }
  const ids = [...news.conversations, ...news.messages].map((each) => each.id);
  const fresh = withFreshIds(news, await database.takenIds(ids));
  await database.saveAll(fresh.conversations, fresh.messages);
  conversations.value = [...fresh.conversations, ...conversations.peek()].sort(newestFirst);
  if (fresh.conversations[0]) await open(fresh.conversations[0].id);
  return fresh.conversations.length;
}

/** Return all conversations as a file's text, or one of them. */
export async function exportAll(id?: string): Promise<string> {
  const chosen = conversations.peek().filter((each) => id === undefined || each.id === id);
  const texts = await Promise.all(chosen.map((each) => database.loadMessages(each.id)));
  return exported(chosen, texts.flat());
}

export async function remove(id: string): Promise<void> {
  conversations.value = conversations.value.filter((each) => each.id !== id);
  if (openId.value === id) await open(conversations.value[0]?.id ?? null);
  await database.removeConversation(id);
}
