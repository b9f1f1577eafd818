/** The list of conversations: search, export, import, delete. */
import type { VNode } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { t } from "../i18n";
import * as store from "../store/conversations";
import { findConversations } from "../store/database";
import { MAX_FILE_BYTES } from "../store/transfer";
import { saveFile } from "../ui/copy";
import { describe } from "../ui/failures";
import { textOf } from "../ui/files";
import { Icon } from "../ui/icon";
import { say } from "../ui/notices";

const SHOWN = 200;

/** The history beside the chat; `onChoose` is called when a conversation was opened. */
export function History({ onChoose }: { onChoose: () => void }): VNode {
  const [words, setWords] = useState("");
  const found = useSearch(words);
  const wanted = words.trim().toLowerCase();
  const list = store.conversations.value.filter(
    (each) => !wanted || each.title.toLowerCase().includes(wanted) || found.has(each.id),
  );
  const choose = async (id: string | null): Promise<void> => {
    await store.open(id);
    onChoose();
  };
  return (
    <aside class="history" aria-label={t("history")}>
      <button type="button" class="primary" onClick={() => void choose(null)}>
        <Icon name="plus" /> {t("new-chat")}
      </button>
      <input
        type="search"
        aria-label={t("search")}
        placeholder={t("search")}
        value={words}
        onInput={(event) => setWords(event.currentTarget.value)}
      />
      <ul>
        {list.slice(0, SHOWN).map((each) => (
          <li key={each.id} class={each.id === store.openId.value ? "open" : ""}>
            <button type="button" class="quiet title" onClick={() => void choose(each.id)}>
              {each.title || t("new-chat")}
            </button>
            <button
              type="button"
              class="quiet"
              aria-label={t("delete-named", { title: each.title })}
              title={t("delete")}
              onClick={() => confirm(t("delete-sure", { title: each.title })) && void store.remove(each.id)}
            >
              <Icon name="cross" />
            </button>
          </li>
        ))}
      </ul>
      <Files />
    </aside>
  );
}

function useSearch(words: string): ReadonlySet<string> {
  const [found, setFound] = useState<ReadonlySet<string>>(new Set());
  useEffect(() => {
    const wanted = words.trim();
    if (wanted.length < 2) return setFound(new Set());
    let isWanted = true;
    const timer = setTimeout(() => void findConversations(wanted).then((ids) => isWanted && setFound(ids)), 200);
    return () => {
      isWanted = false;
      clearTimeout(timer);
    };
  }, [words]);
  return found;
}

function Files(): VNode {
  const input = useRef<HTMLInputElement>(null);
  const read = async (file: File | undefined): Promise<void> => {
    if (!file) return;
    try {
      say(t("imported", { count: await store.importFrom(await textOf(file, MAX_FILE_BYTES)) }));
    } catch (error) {
      say(describe(error));
    }
  };
  return (
    <div class="files">
      <button type="button" onClick={() => void saveAll()}>
        {t("export")}
      </button>
      <button type="button" onClick={() => input.current?.click()}>
        {t("import")}
      </button>
      <input
        ref={input}
        class="offscreen"
        type="file"
        accept=".json,application/json"
        tabIndex={-1}
        aria-label={t("import")}
        onChange={(event) => {
          void read(event.currentTarget.files?.[0]);
          event.currentTarget.value = "";
        }}
      />
    </div>
  );
}

async function saveAll(): Promise<void> {
  saveFile("miaotui-conversations.json", await store.exportAll(), "application/json");
}
