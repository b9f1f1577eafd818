/** Short messages at the edge of the page, which cover nothing that can be pressed, and the dialog that asks for a key. */
import { signal } from "@preact/signals";
import type { VNode } from "preact";
import { useState } from "preact/hooks";
import { t } from "../i18n";
import { apiKey, keepKey, needsKey } from "../server/http";
import { loadModels } from "../server/models";
import { Dialog } from "./dialog";

const notice = signal("");
let timer = 0;

/** Say something for some seconds. */
export function say(text: string): void {
  notice.value = text;
  window.clearTimeout(timer);
  timer = window.setTimeout(() => (notice.value = ""), 6000);
}

/** What there is to say at the moment. */
export function Notices(): VNode {
  return (
    <>
      <div class="notices" role="status" aria-live="polite">
        {notice.value && <p class="notice">{notice.value}</p>}
      </div>
      {needsKey.value && <KeyDialog />}
    </>
  );
}

function KeyDialog(): VNode {
  const [key, setKey] = useState("");
  const [remember, setRemember] = useState(false);
  const keep = (event: Event): void => {
    event.preventDefault();
    keepKey(key.trim(), remember);
    void loadModels();
  };
  return (
    <Dialog title={t("key-title")} onClose={() => (needsKey.value = false)}>
      <form onSubmit={keep}>
        <p>{t("key-why")}</p>
        {apiKey() && (
          <p class="problem" role="alert">
            {t("error-key")}
          </p>
        )}
        <label>
          {t("key")}
          <input
            type="password"
            autocomplete="off"
            value={key}
            onInput={(event) => setKey(event.currentTarget.value)}
            required
          />
        </label>
        <label class="check">
          <input type="checkbox" checked={remember} onChange={(event) => setRemember(event.currentTarget.checked)} />
          {t("key-remember")}
        </label>
        <footer>
          <button type="submit" class="primary">
            {t("use-key")}
          </button>
        </footer>
      </form>
    </Dialog>
  );
}
