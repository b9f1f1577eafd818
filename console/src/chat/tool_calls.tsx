/** Calls of tools in an answer: shown, editable, and answered by the person. */
import type { VNode } from "preact";
import { useState } from "preact/hooks";
import { t } from "../i18n";
import * as store from "../store/conversations";
import type { Conversation, Message } from "../store/model";
import { describe } from "../ui/failures";
import { say } from "../ui/notices";
import { regenerate } from "./generation";

/** The calls of a message, with a field for each result while there is none. */
export function ToolCalls({ message, conversation }: { message: Message; conversation: Conversation }): VNode | null {
  const [results, setResults] = useState<Record<number, string>>({});
  if (message.toolCalls.length === 0) return null;
  const isLast = store.path.value[store.path.value.length - 1] === message.id;
  const edit = (at: number, text: string): void => {
    const toolCalls = message.toolCalls.map((call, index) =>
      index === at ? { ...call, function: { ...call.function, arguments: text } } : call,
    );
    store.update(message.id, { toolCalls });
  };
  const answer = (event: Event): void => {
    event.preventDefault();
    try {
      let parent = message.id;
      for (const [at, call] of message.toolCalls.entries())
        parent = store.add(conversation, parent, { role: "tool", content: results[at] ?? "", toolCallId: call.id }).id;
      regenerate(conversation, parent);
    } catch (error) {
      say(describe(error));
    }
  };
  return (
    <form class="calls" onSubmit={answer}>
      {message.toolCalls.map((call, at) => (
        <fieldset key={call.id || at}>
          <legend>
            {t("calls")} <code>{call.function.name}</code>
          </legend>
          <label>
            {t("arguments")}
            <textarea rows={3} value={call.function.arguments} onInput={(event) => edit(at, event.currentTarget.value)} />
          </label>
          {isLast && (
            <label>
              {t("tool-result")}
              <textarea
                rows={2}
                value={results[at] ?? ""}
                onInput={(event) => setResults({ ...results, [at]: event.currentTarget.value })}
              />
            </label>
          )}
        </fieldset>
      ))}
      {isLast && (
        <button type="submit" class="primary">
          {t("send-results")}
        </button>
      )}
    </form>
  );
}
