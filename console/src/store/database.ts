/**
 * The history in IndexedDB: two stores, conversations and their messages.
 *
 * Knows nothing of what is shown. Without IndexedDB, or with a full one, everything works until the page is closed;
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
    const result = await work(db);
    if (storeProblem.value === "full") storeProblem.value = "";
    return result;
  } catch (error) {
    note(error);
    return otherwise;
  }
}

export function loadConversations(): Promise<Conversation[]> {
  return guarded((db) => db.getAll("conversations"), []);
}

export function loadMessages(conversation: string): Promise<Message[]> {
  return guarded((db) => db.getAllFromIndex("messages", "conversation", conversation), []);
}

export async function saveConversation(conversation: Conversation): Promise<void> {
  await guarded(async (db) => void (await db.put("conversations", conversation)), undefined);
}

export async function saveMessage(message: Message): Promise<void> {
  await guarded(async (db) => void (await db.put("messages", message)), undefined);
}

/** Save whole conversations in one transaction: all of them, or none. */
export async function saveAll(conversations: readonly Conversation[], messages: readonly Message[]): Promise<void> {
  await guarded(async (db) => {
    const transaction = db.transaction(["conversations", "messages"], "readwrite");
    const [chats, texts] = [transaction.objectStore("conversations"), transaction.objectStore("messages")];
    for (const conversation of conversations) void chats.put(conversation);
    for (const message of messages) void texts.put(message);
    await transaction.done;
  }, undefined);
}

export async function removeConversation(id: string): Promise<void> {
  await guarded(async (db) => {
    const transaction = db.transaction(["conversations", "messages"], "readwrite");
    void transaction.objectStore("conversations").delete(id);
    const index = transaction.objectStore("messages").index("conversation");
    for (let cursor = await index.openCursor(id); cursor; cursor = await cursor.continue()) void cursor.delete();
    await transaction.done;
  }, undefined);
}

/** Return the conversations in which `words` stand, in any case, at most `limit` of them. */
export async function findConversations(words: string, limit = 100): Promise<Set<string>> {
  const wanted = words.toLowerCase();
  const found = new Set<string>();
  await guarded(async (db) => {
    let cursor = await db.transaction("messages").store.openCursor();
    for (; cursor && found.size < limit; cursor = await cursor.continue())
      if (cursor.value.content.toLowerCase().includes(wanted)) found.add(cursor.value.conversation);
  }, undefined);
  return found;
}

/** Return those of `ids` that a conversation or a message has already. */
export async function takenIds(ids: readonly string[]): Promise<Set<string>> {
  const taken = new Set<string>();
  await guarded(async (db) => {
    const transaction = db.transaction(["conversations", "messages"]);
    for (const name of ["conversations", "messages"] as const) {
      const known = new Set(await transaction.objectStore(name).getAllKeys());
      for (const id of ids) if (known.has(id)) taken.add(id);
    }
  }, undefined);
  return taken;
}
