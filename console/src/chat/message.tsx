/** One message: its text, its branches, and what can be done with it. */
import { useComputed } from "@preact/signals";
import type { VNode } from "preact";
import { useState } from "preact/hooks";
import { t, whole } from "../i18n";
import { apiKey } from "../server/http";
import * as store from "../store/conversations";
import { type Conversation, type Message, newId } from "../store/model";
import { Markdown } from "../text/markdown";
import { copyText } from "../ui/copy";
import { describe } from "../ui/failures";
import { Icon } from "../ui/icon";
import { say } from "../ui/notices";
import { Explanation } from "./explanation";
import { bodyOf, goOn, regenerate, runningIds, send, stop } from "./generation";
import { asCurl, asPython } from "./requests";
import { ToolCalls } from "./tool_calls";

/** A message of the open conversation. */
export function MessageView({ id }: { id: string }): VNode | null {
  const message = store.messageSignal(id)?.value;
  const conversation = store.current.value;
  const [isEditing, setEditing] = useState(false);
  const isRunning = useComputed(() => runningIds.value.has(id)).value;
  if (!message || !conversation) return null;
  const name = t(message.role === "user" ? "you" : message.role === "tool" ? "tool-result" : "assistant");
  return (
    <article class={`message ${message.role}`} aria-label={name} aria-busy={isRunning} data-id={id}>
      {message.reasoning && (
        <details class="reasoning">
          <summary>{isRunning && !message.content ? t("thinking-now") : t("thought")}</summary>
          <Markdown text={message.reasoning} growing={isRunning} />
        </details>
      )}
      {isEditing ? (
        <Editor message={message} conversation={conversation} onDone={() => setEditing(false)} />
      ) : (
        <Body message={message} growing={isRunning} />
      )}
      <ToolCalls message={message} conversation={conversation} />
      {isRunning && !message.content && !message.reasoning && <p class="waiting">{t("waiting")}</p>}
      <State message={message} isRunning={isRunning} />
      <Actions message={message} conversation={conversation} isRunning={isRunning} onEdit={() => setEditing(true)} />
      {message.answer && !isRunning && <Explanation message={message} conversation={conversation} />}
    </article>
  );
}

const PLAIN_CHARACTERS = 200_000; // a longer answer is shown as it is: a log is no Markdown
const SHOWN_CHARACTERS = 8_000; // of a long text, before the rest is asked for

function Body({ message, growing }: { message: Message; growing: boolean }): VNode {
  const { content, role } = message;
  if (role === "assistant" && content.length <= PLAIN_CHARACTERS) return <Markdown text={content} growing={growing} />;
  return <PlainText text={content} />;
}

function PlainText({ text }: { text: string }): VNode {
  const [isWhole, setWhole] = useState(false);
  const isCut = !isWhole && text.length > 2 * SHOWN_CHARACTERS;
  return (
    <div class="plain">
      {isCut ? `${text.slice(0, SHOWN_CHARACTERS)} … ` : text}
      {isCut && (
        <button type="button" onClick={() => setWhole(true)}>
          {t("show-all", { count: whole(text.length) })}
        </button>
      )}
    </div>
  );
}

function State({ message, isRunning }: { message: Message; isRunning: boolean }): VNode | null {
  const { answer } = message;
  if (!answer || isRunning) return null;
  if (answer.state === "failed")
    return (
      <p class="problem" role="alert">
        {answer.error}
      </p>
    );
  if (answer.state === "stopped") return <p class="hint">{t("stopped")}</p>;
  if (answer.state === "pending") return <p class="hint">{t("read-elsewhere")}</p>;
  return answer.finish === "length" ? <p class="hint">{t("cut-short")}</p> : null;
}

interface Given {
  message: Message;
  conversation: Conversation;
}

function Actions({ message, conversation, isRunning, onEdit }: Given & { isRunning: boolean; onEdit: () => void }): VNode {
  if (isRunning)
    return (
      <div class="actions">
        <button type="button" onClick={() => stop(message.id)}>
          <Icon name="stop" /> {t("stop")}
        </button>
      </div>
    );
  const isAnswer = message.role === "assistant";
  return (
    <div class="actions">
      <Branches message={message} />
      <button type="button" class="quiet" onClick={() => void copied(message.content)}>
        {t("copy")}
      </button>
      <button type="button" class="quiet" onClick={onEdit}>
        {t("edit")}
      </button>
      {isAnswer && (
        <>
          <button type="button" class="quiet" onClick={() => guarded(() => regenerate(conversation, message.parent))}>
            {t("regenerate")}
          </button>
          <button type="button" class="quiet" onClick={() => guarded(() => goOn(conversation, message))}>
            {t("continue")}
          </button>
          <button type="button" class="quiet" onClick={() => void copied(asCurl(bodyOf(message, conversation.options), !!apiKey()))}>
            curl
          </button>
          <button type="button" class="quiet" onClick={() => void copied(asPython(bodyOf(message, conversation.options), !!apiKey()))}>
            Python
          </button>
        </>
      )}
    </div>
  );
}

async function copied(text: string): Promise<void> {
  say((await copyText(text)) ? t("copied") : t("not-copied"));
}

function guarded(work: () => void): void {
  try {
    work();
  } catch (error) {
    say(describe(error));
  }
}

function Branches({ message }: { message: Message }): VNode | null {
  const all = store.siblingsOf(message);
  if (all.length < 2) return null;
  const at = all.indexOf(message.id);
  const show = (step: number): void => store.showBranch(all[at + step] as string);
  return (
    <span class="branches">
      <button type="button" class="quiet" aria-label={t("branch-before")} disabled={at === 0} onClick={() => show(-1)}>
        ‹
      </button>
      {at + 1} / {all.length}
      <button type="button" class="quiet" aria-label={t("branch-after")} disabled={at + 1 === all.length} onClick={() => show(1)}>
        ›
      </button>
    </span>
  );
}

function Editor({ message, conversation, onDone }: Given & { onDone: () => void }): VNode {
  const [text, setText] = useState(message.content);
  const save = (event: Event): void => {
    event.preventDefault();
    guarded(() => {
      if (message.role === "user") send(conversation, message.parent, text);
      else store.add(conversation, message.parent, { ...message, id: newId(), content: text, created: Date.now(), answer: null });
      onDone();
    });
  };
  return (
    <form class="editor" onSubmit={save}>
      <textarea
        aria-label={t("edit")}
        rows={Math.min(16, text.split("\n").length + 1)}
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => event.key === "Escape" && onDone()}
      />
      <div class="actions">
        <button type="submit" class="primary">
          {message.role === "user" ? t("send") : t("save")}
        </button>
        <button type="button" onClick={onDone}>
          {t("cancel")}
        </button>
      </div>
    </form>
  );
}
