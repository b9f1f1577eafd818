/** The chat: history beside the messages of the open conversation, and where to write. */
import { signal } from "@preact/signals";
import type { VNode } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { t } from "../i18n";
import * as store from "../store/conversations";
import { Icon } from "../ui/icon";
import { Composer } from "./composer";
import { resume, runningIds } from "./generation";
import { History } from "./history";
import { MessageView } from "./message";
import { Options } from "./options";

const AT_ONCE = 8; // of a conversation's last messages; those before follow, some in each frame
const FIRST_SHOWN = 60; // of a long conversation; earlier messages are shown when they are asked for
const isHistoryShown = signal(false);
const areOptionsShown = signal(false);

/** The view of conversations. */
export function Chat(): VNode {
  const conversation = store.current.value;
  useEffect(() => {
    if (conversation) resume(conversation, store.messagesOn(store.path.peek()));
  }, [conversation?.id, store.isOpening.value]);
  return (
    <div class={`chat ${isHistoryShown.value ? "with-history" : ""} ${areOptionsShown.value ? "with-options" : ""}`}>
      <History onChoose={() => (isHistoryShown.value = false)} />
      <section class="talk" aria-label={t("conversation")}>
        <div class="talk-bar">
          <button type="button" class="quiet" aria-expanded={isHistoryShown.value} onClick={() => toggle(isHistoryShown)}>
            <Icon name="menu" /> {t("history")}
          </button>
          <h1>{conversation?.title || t("new-chat")}</h1>
          <button type="button" class="quiet" aria-expanded={areOptionsShown.value} onClick={() => toggle(areOptionsShown)}>
            <Icon name="options" /> {t("options")}
          </button>
        </div>
        <Messages key={conversation?.id ?? ""} />
        <Composer key={`composer-${conversation?.id ?? ""}`} />
      </section>
      {areOptionsShown.value && <Options />}
    </div>
  );
}

function toggle(shown: typeof isHistoryShown): void {
  shown.value = !shown.value;
}

function Messages(): VNode {
  const ids = store.path.value;
  const [most, setMost] = useState(FIRST_SHOWN);
  const place = useRef<HTMLDivElement>(null);
  const shown = useGrowing(Math.min(most, ids.length), place);
  useFollow(place, ids.length);
  const hidden = Math.max(0, ids.length - shown);
  return (
    <div class="messages" ref={place} role="log" aria-label={t("messages")} aria-live="off" tabIndex={0}>
      {ids.length === 0 && !store.isOpening.value && <p class="empty">{t("empty-chat")}</p>}
      {shown === most && hidden > 0 && (
        <button type="button" onClick={() => setMost(most + 200)}>
          {t("show-earlier", { count: hidden })}
        </button>
      )}
      {ids.slice(hidden).map((id) => (
        <MessageView key={id} id={id} />
      ))}
    </div>
  );
}

/** Return how many messages are rendered now: `AT_ONCE` at first, then more with each frame, above what is in sight. */
function useGrowing(wanted: number, place: { current: HTMLDivElement | null }): number {
  const [rendered, setRendered] = useState(AT_ONCE);
  const belowTop = useRef<number | null>(null); // the distance between the top of what is in sight and the end
  const shown = Math.min(wanted, rendered);
  useLayoutEffect(() => {
    const node = place.current;
    if (node && belowTop.current !== null) node.scrollTop = node.scrollHeight - belowTop.current;
    belowTop.current = null;
  }, [shown]);
  useEffect(() => {
    if (rendered >= wanted) return;
    const timer = setTimeout(() => {
      const node = place.current;
      if (node) belowTop.current = node.scrollHeight - node.scrollTop;
      setRendered(rendered + AT_ONCE);
    });
    return () => clearTimeout(timer);
  }, [rendered, wanted]);
  return shown;
}

/** Keep the end of the conversation in sight while an answer comes, unless the person has scrolled up. */
function useFollow(place: { current: HTMLDivElement | null }, count: number): void {
  const isRunning = runningIds.value.size > 0;
  useEffect(() => {
    const node = place.current;
    if (!node) return;
    node.scrollTop = node.scrollHeight;
    if (!isRunning) return;
    let atEnd = true;
    const look = (): void => {
      atEnd = node.scrollHeight - node.scrollTop - node.clientHeight < 80;
    };
    const observer = new ResizeObserver(() => {
      if (atEnd) node.scrollTop = node.scrollHeight;
    });
    if (node.lastElementChild) observer.observe(node.lastElementChild);
    node.addEventListener("scroll", look, { passive: true });
    return () => {
      observer.disconnect();
      node.removeEventListener("scroll", look);
    };
  }, [count, isRunning]);
}
