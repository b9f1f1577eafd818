/** Documents: put in, asked, and read where an answer cites them. */
import { signal } from "@preact/signals";
import type { VNode } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { t, whole } from "../i18n";
import { requestJson } from "../server/http";
import { Ask } from "./ask";
import { MAX_FILE_BYTES, type Upload, upload, uploads } from "./upload";

const names = signal<string[]>([]);
const chosen = signal("documents");
let isTyped = false; // a name that a person wrote is not replaced when the list of names comes

async function loadNames(): Promise<void> {
  try {
    names.value = (await requestJson<{ data: { id: string }[] }>("v1/indexes")).data.map((each) => each.id);
    if (!isTyped && names.value[0] && !names.value.includes(chosen.value)) chosen.value = names.value[0];
  } catch {
    names.value = []; // without a key, or of an older server: the page says so when something is asked
  }
}

/** The view of documents. */
export function Documents(): VNode {
  useEffect(() => void loadNames(), []);
  return (
    <div class="page" tabIndex={0}>
      <h1>{t("view-documents")}</h1>
      <section class="panel" aria-label={t("add-documents")}>
        <h2>{t("add-documents")}</h2>
        <label class="row">
          {t("index")}
          <input
            list="indexes"
            value={chosen.value}
            pattern="[A-Za-z0-9._\-]+"
            onInput={(event) => {
              isTyped = true;
              chosen.value = event.currentTarget.value;
            }}
          />
        </label>
        <datalist id="indexes">
          {names.value.map((name) => (
            <option key={name} value={name} />
          ))}
        </datalist>
        <DropZone />
        <ul class="uploads" aria-live="polite">
          {uploads.value.map((each, at) => (
            <UploadView key={at} upload={each} />
          ))}
        </ul>
      </section>
      <Ask index={chosen.value} />
    </div>
  );
}

function DropZone(): VNode {
  const [isOver, setOver] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  const take = async (files: FileList | null | undefined): Promise<void> => {
    if (!files?.length || !chosen.value) return;
    await upload(chosen.value, [...files]);
    await loadNames();
  };
  return (
    <div
      class={`drop ${isOver ? "over" : ""}`}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        setOver(false);
        void take(event.dataTransfer?.files);
      }}
    >
      <p>{t("drop-here")}</p>
      <button type="button" onClick={() => input.current?.click()}>
        {t("choose-files")}
      </button>
      <input
        ref={input}
        class="offscreen"
        type="file"
        multiple
        tabIndex={-1}
        aria-label={t("choose-files")}
        onChange={(event) => {
          void take(event.currentTarget.files);
          event.currentTarget.value = "";
        }}
      />
    </div>
  );
}

function UploadView({ upload: each }: { upload: Upload }): VNode {
  const isDone = each.done >= each.total && each.passages > 0;
  return (
    <li>
      {each.name}{" "}
      {each.problem ? (
        <span class="problem">
          {t(`file-${each.problem}`, { size: MAX_FILE_BYTES >> 20 })} {each.detail}
        </span>
      ) : isDone ? (
        <span class="hint">{t("indexed", { count: whole(each.passages) })}</span>
      ) : (
        <progress value={each.done} max={each.total || 1} aria-label={each.name} />
      )}
    </li>
  );
}
