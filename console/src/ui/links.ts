/** The view that the address names: the chat, documents and tasks by the fragment, the live page by its path. */
import { computed, signal } from "@preact/signals";

export type View = "chat" | "documents" | "tasks" | "monitor";

const address = signal(location.href);
addEventListener("hashchange", () => (address.value = location.href));
addEventListener("popstate", () => (address.value = location.href));

export const view = computed<View>(() => {
  const url = new URL(address.value);
  if (url.hash === "#documents" || url.hash === "#tasks" || url.hash === "#monitor") return url.hash.slice(1) as View;
  return url.hash === "" && /\/monitor$/.test(url.pathname) ? "monitor" : "chat";
});
