/**
 * The history in IndexedDB: two stores, conversations and their messages.
 *
 * Knows nothing of what is shown. Without IndexedDB, or with a full one, everything works until the page is closed:
 * `Unsaved` holds what the browser did not take, readers find it there, and it is saved once there is room again.
 * `storeProblem` says so.
 */
import { signal } from "@preact/signals";
import { type DBSchema, type IDBPDatabase, openDB } from "idb";
import type { Conversation, Message } from "./model";

interface Schema extends DBSchema {
  conversations: { key: string; value: Conversation };
  messages: { key: string; value: Message; indexes: { conversation: string } };
}

export type StoreProblem = "" | "full" | "unavailable";

/** Why history is not kept at the moment; "" while it is. */
export const storeProblem = signal<StoreProblem>("");

/** Values that were to be saved and could not be, by their ids. */
class Unsaved {
  readonly conversations = new Map<string, Conversation>();
  readonly messages = new Map<string, Message>();

  get size(): number {
    return this.conversations.size + this.messages.size;
  }

  messagesOf(conversation: string): Message[] {
    return [...this.messages.values()].filter((each) => each.conversation === conversation);
  }

  forget(conversation: string): void {
    this.conversations.delete(conversation);
    for (const each of this.messagesOf(conversation)) this.messages.delete(each.id);
  }
}

const unsaved = new Unsaved();

let opened: Promise<IDBPDatabase<Schema> | null> | undefined;

function database(): Promise<IDBPDatabase<Schema> | null> {
  opened ??= Promise.resolve()
    .then(openStores)
    .catch((error: unknown) => {
      note(error);
      return null;
    });
  return opened;
}

/** Open the stores; a browser that has none throws here. */
function openStores(): Promise<IDBPDatabase<Schema>> {
  return openDB<Schema>("miaotui", 1, {
    upgrade(db) {
      db.createObjectStore("conversations", { keyPath: "id" });
      db.createObjectStore("messages", { keyPath: "id" }).createIndex("conversation", "conversation");
    },
    blocking: (_old, _new, event) => (event.target as IDBDatabase).close(),
    terminated: () => (opened = undefined),
  });
}

function note(error: unknown): void {
  const full = error instanceof DOMException && error.name === "QuotaExceededError";
  storeProblem.value = full ? "full" : "unavailable";
}

async function guarded<Result>(work: (db: IDBPDatabase<Schema>) => Promise<Result>, otherwise: Result): Promise<Result> {
  const db = await database();
  if (db === null) return otherwise;
  try {
    return await work(db);
  } catch (error) {
    note(error);
    return otherwise;
  }
}

export async function loadConversations(): Promise<Conversation[]> {
  return merged(await guarded((db) => db.getAll("conversations"), []), [...unsaved.conversations.values()]);
}

export async function loadMessages(conversation: string): Promise<Message[]> {
  const found = await guarded((db) => db.getAllFromIndex("messages", "conversation", conversation), []);
  return merged(found, unsaved.messagesOf(conversation));
}

/** Return what was found, but for values of which there are newer ones. */
function merged<Value extends { id: string }>(found: readonly Value[], newer: readonly Value[]): Value[] {
  const ids = new Set(newer.map((each) => each.id));
  return [...found.filter((each) => !ids.has(each.id)), ...newer];
}

export async function saveConversation(conversation: Conversation): Promise<void> {
  await saveAll([conversation], []);
}

export async function saveMessage(message: Message): Promise<void> {
  await saveAll([], [message]);
}

/** Save conversations and messages in one transaction: all of them, or none, which are kept here then. */
export async function saveAll(conversations: readonly Conversation[], messages: readonly Message[]): Promise<void> {
  const isSaved = await guarded(async (db) => {
    const transaction = db.transaction(["conversations", "messages"], "readwrite");
    const [chats, texts] = [transaction.objectStore("conversations"), transaction.objectStore("messages")];
    const puts = [...conversations.map((each) => chats.put(each)), ...messages.map((each) => texts.put(each))];
    await Promise.all([...puts, transaction.done]);
    return true;
  }, false);
  for (const each of conversations) keep(unsaved.conversations, each, isSaved);
  for (const each of messages) keep(unsaved.messages, each, isSaved);
  if (isSaved && !unsaved.size && storeProblem.value === "full") storeProblem.value = "";
}

function keep<Value extends { id: string }>(waiting: Map<string, Value>, value: Value, isSaved: boolean): void {
  if (isSaved) waiting.delete(value.id);
  else waiting.set(value.id, value);
}

/** Remove a conversation; what had no room is saved then, if there is any now. */
export async function removeConversation(id: string): Promise<void> {
  unsaved.forget(id);
  await guarded(async (db) => {
    const transaction = db.transaction(["conversations", "messages"], "readwrite");
    void transaction.objectStore("conversations").delete(id);
    const index = transaction.objectStore("messages").index("conversation");
    for (let cursor = await index.openCursor(id); cursor; cursor = await cursor.continue()) void cursor.delete();
    await transaction.done;
  }, undefined);
  if (unsaved.size) await saveAll([...unsaved.conversations.values()], [...unsaved.messages.values()]);
}

/** Return the conversations in which `words` stand, in any case, at most `limit` of them. */
export async function findConversations(words: string, limit = 100): Promise<Set<string>> {
  const wanted = words.toLowerCase();
  const found = new Set<string>();
  for (const each of unsaved.messages.values()) if (each.content.toLowerCase().includes(wanted)) found.add(each.conversation);
  await guarded(async (db) => {
    let cursor = await db.transaction("messages").store.openCursor();
    for (; cursor && found.size < limit; cursor = await cursor.continue())
      if (cursor.value.content.toLowerCase().includes(wanted)) found.add(cursor.value.conversation);
  }, undefined);
  return found;
}

/** Return those of `ids` that a conversation or a message has already. */
export async function takenIds(ids: readonly string[]): Promise<Set<string>> {
  const taken = new Set(ids.filter((id) => unsaved.conversations.has(id) || unsaved.messages.has(id)));
  await guarded(async (db) => {
    const transaction = db.transaction(["conversations", "messages"]);
    for (const name of ["conversations", "messages"] as const) {
      const known = new Set(await transaction.objectStore(name).getAllKeys());
      for (const id of ids) if (known.has(id)) taken.add(id);
    }
  }, undefined);
  return taken;
}
