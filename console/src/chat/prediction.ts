/** The server's prediction for a message that was not sent yet. */
import { useEffect, useState } from "preact/hooks";
import { requestJson } from "../server/http";
import type { PromiseAnswer } from "../server/types";
import * as store from "../store/conversations";
import type { ChatOptions } from "../store/model";
import { messagesFor, requestFor } from "./requests";

const WAIT_MS = 350; // after the last key
const MOST_CHARACTERS = 400_000;

/** Return the prediction for sending `text` now; null while there is none, also where the server gives none. */
export function usePrediction(text: string, options: ChatOptions): PromiseAnswer | null {
  const [found, setFound] = useState<PromiseAnswer | null>(null);
  const path = store.path.value;
  useEffect(() => {
    if (!text.trim() || text.length > MOST_CHARACTERS) return setFound(null);
    const controller = new AbortController();
    const look = async (): Promise<void> => {
      const next = await ask(text, options, controller.signal);
      if (!controller.signal.aborted) setFound(next);
    };
    const timer = setTimeout(() => void look(), WAIT_MS);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [text, JSON.stringify(options), path.length]);
  return found;
}

async function ask(text: string, options: ChatOptions, signal: AbortSignal): Promise<PromiseAnswer | null> {
  try {
    const said = messagesFor(options, store.messagesOn(store.path.peek()));
    const { model, max_tokens, deadline_ms, chat_template_kwargs } = requestFor(options);
    const body = { model, max_tokens, deadline_ms, chat_template_kwargs };
    return await requestJson<PromiseAnswer>("v1/promise", {
      body: { ...body, messages: [...said, { role: "user", content: text }] },
      signal,
    });
  } catch {
    return null; // an older server, or one that cannot promise: nothing is shown
  }
}
