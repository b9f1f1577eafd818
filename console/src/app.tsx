/** The page: the bar with the views, and the view that is open. */
import { computed } from "@preact/signals";
import type { VNode } from "preact";
import { useEffect } from "preact/hooks";
import { Chat } from "./chat/chat";
import { Documents } from "./documents/documents";
import { t, type TextName } from "./i18n";
import { Monitor } from "./monitor/monitor";
import { loadModels, modelsError } from "./server/models";
import { storeProblem } from "./store/database";
import { prefer, preferences, type Theme } from "./store/preferences";
import { Tasks } from "./tasks/tasks";
import "./ui/failures";
import { describe } from "./ui/failures";
import { type View, view } from "./ui/links";
import { Notices } from "./ui/notices";

const VIEWS: [View, TextName][] = [
  ["chat", "view-chat"],
  ["documents", "view-documents"],
  ["tasks", "view-tasks"],
  ["monitor", "view-monitor"],
];

const shown = computed(() => {
  const views = { chat: Chat, documents: Documents, tasks: Tasks, monitor: Monitor };
  return views[view.value];
});

/** The whole page. */
export function App(): VNode {
  const Shown = shown.value;
  useEffect(() => void loadModels(), []);
  return (
    <>
      <a class="skip" href="#main">
        {t("skip")}
      </a>
      <header class="bar">
        <strong class="brand">{t("brand")}</strong>
        <nav aria-label={t("views")}>
          {VIEWS.map(([name, text]) => (
            <a key={name} href={name === "chat" ? "#chat" : `#${name}`} aria-current={view.value === name ? "page" : undefined}>
              {t(text)}
            </a>
          ))}
        </nav>
        <Choices />
      </header>
      {modelsError.value && modelsError.value.status !== 401 && (
        <p class="notice warning" role="alert">
          {describe(modelsError.value)}{" "}
          <button type="button" onClick={() => void loadModels()}>
            {t("try-again")}
          </button>
        </p>
      )}
      {storeProblem.value && (
        <p class="notice warning" role="status">
          {t(`store-${storeProblem.value}`)}
        </p>
      )}
      <main id="main" tabIndex={-1}>
        <Shown key={view.value} />
      </main>
      <Notices />
    </>
  );
}

const THEMES: Theme[] = ["system", "light", "dark"];

function Choices(): VNode {
  const chosen = preferences.value;
  return (
    <div class="choices">
      <select
        aria-label={t("language")}
        value={chosen.language}
        onChange={(event) => prefer({ language: event.currentTarget.value as typeof chosen.language })}
      >
        <option value="system">{t("language-system")}</option>
        <option value="en" lang="en">
          English
        </option>
        <option value="zh" lang="zh-CN">
          中文
        </option>
      </select>
      <select
        aria-label={t("theme")}
        value={chosen.theme}
        onChange={(event) => prefer({ theme: event.currentTarget.value as Theme })}
      >
        {THEMES.map((each) => (
          <option key={each} value={each}>
            {t(`theme-${each}` as TextName)}
          </option>
        ))}
      </select>
    </div>
  );
}
