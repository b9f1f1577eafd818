/** Where a person writes: the text, the deadline with what the server predicts, and send or stop. */
import type { VNode } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { seconds, t, whole } from "../i18n";
import { chatModels, speechModel } from "../server/models";
import * as store from "../store/conversations";
import { type ChatOptions, titleOf } from "../store/model";
import { DictationButtons, Heard, joined, useDictation } from "../speech/dictation";
import { prefer, preferences } from "../store/preferences";
import { describe } from "../ui/failures";
import { Icon } from "../ui/icon";
import { say } from "../ui/notices";
import { runningIds, send, stop } from "./generation";
import { usePrediction } from "./prediction";

/** Options of the open conversation, or those that the next one begins with. */
export function chosenOptions(): ChatOptions {
  return store.current.value?.options ?? store.defaultOptions();
}

export function choose(changes: Partial<ChatOptions>): void {
  const conversation = store.current.peek();
  if (conversation) store.change(conversation.id, { options: { ...conversation.options, ...changes } });
  prefer({ chat: { ...preferences.peek().chat, ...changes } });
}

interface Draft {
  text: string;
  pasted: readonly string[]; // long texts, apart: a field lays out every line that it holds
}

const EMPTY: Draft = { text: "", pasted: [] };
const LONG_PASTE = 20_000; // characters from which on a paste is kept apart
const drafts = new Map<string, Draft>(); // what was not sent, by conversation

/** The form below the messages. */
export function Composer(): VNode {
  const place = store.openId.value ?? "";
  const [draft, setDraft] = useState(drafts.get(place) ?? EMPTY);
  const { text, pasted } = draft;
  const area = useRef<HTMLTextAreaElement>(null);
  useEffect(() => area.current?.focus({ preventScroll: true }), []);
  const running = store.path.value.find((id) => runningIds.value.has(id));
  const isEmpty = !text.trim() && pasted.length === 0;
  const write = (changes: Partial<Draft>): void => {
    const changed = { ...(drafts.get(place) ?? EMPTY), ...changes };
    setDraft(changed);
    drafts.set(place, changed);
  };
  const dictation = useDictation((said) => write({ text: joined(drafts.get(place)?.text ?? "", said) }));
  const paste = (event: ClipboardEvent): void => {
    const found = event.clipboardData?.getData("text/plain") ?? "";
    if (found.length < LONG_PASTE) return;
    event.preventDefault();
    write({ pasted: [...pasted, found] });
  };
  const submit = (event: Event): void => {
    event.preventDefault();
    if (isEmpty || running) return;
    try {
      const said = [text, ...pasted].filter(Boolean).join("\n\n");
      const conversation = store.current.value ?? store.begin(store.defaultOptions(), titleOf(said));
      const path = store.path.value;
      send(conversation, path[path.length - 1] ?? null, said);
      drafts.delete(place);
      setDraft(EMPTY);
    } catch (error) {
      say(describe(error));
    }
  };
  return (
    <form
      class="composer"
      onSubmit={(event) => submit(event)}
      onDragOver={(event) => hasFiles(event) && event.preventDefault()}
      onDrop={(event) => {
        if (!hasFiles(event)) return;
        event.preventDefault();
        void dictation.read([...(event.dataTransfer?.files ?? [])]);
      }}
    >
      <textarea
        ref={area}
        aria-label={t("message")}
        placeholder={t("write-here")}
        rows={Math.min(8, (text.slice(0, 2000).match(/\n/g)?.length ?? 0) + 2)}
        value={text}
        onInput={(event) => write({ text: event.currentTarget.value })}
        onPaste={paste}
        onKeyDown={(event) => {
          if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
        }}
      />
      {pasted.map((each, at) => (
        <p key={at} class="pasted">
          {t("pasted", { count: whole(each.length) })}{" "}
          <button type="button" class="quiet" onClick={() => write({ pasted: pasted.filter((_, other) => other !== at) })}>
            {t("remove")}
          </button>
        </p>
      ))}
      <Heard dictation={dictation} />
      <div class="composer-bar">
        <ModelChoice />
        <Deadline text={pasted.length ? "" : text} />
        <span class="sending">
          <DictationButtons dictation={dictation} />
          {running ? (
            <button type="button" class="primary" onClick={() => stop(running)}>
              <Icon name="stop" /> {t("stop")}
            </button>
          ) : (
            <button type="submit" class="primary" disabled={isEmpty}>
              {t("send")}
            </button>
          )}
        </span>
      </div>
    </form>
  );
}

/** Return whether what is dragged are files that a speech model may read. */
function hasFiles(event: DragEvent): boolean {
  return speechModel() !== null && !!event.dataTransfer?.types.includes("Files");
}

function ModelChoice(): VNode {
  const options = chosenOptions();
  const names = chatModels();
  const known = names.includes(options.model) || !options.model;
  return (
    <select aria-label={t("model")} value={options.model || names[0]} onChange={(event) => choose({ model: event.currentTarget.value })}>
      {!known && <option value={options.model}>{t("model-away", { name: options.model })}</option>}
      {names.map((name) => (
        <option key={name} value={name}>
          {name}
        </option>
      ))}
    </select>
  );
}

// Positions of the slider: none, then deadlines in milliseconds, about a third more each.
const DEADLINES = [
  ...[null, 200, 300, 400, 500, 700, 1000, 1500, 2000, 3000, 4000, 5000, 7000, 10_000],
  ...[15_000, 20_000, 30_000, 45_000, 60_000, 120_000],
];

function Deadline({ text }: { text: string }): VNode {
  const options = chosenOptions();
  const found = usePrediction(text, options);
  const at = Math.max(0, DEADLINES.indexOf(options.deadlineMs));
  const set = options.deadlineMs === null ? t("no-deadline") : seconds(options.deadlineMs);
  return (
    <div class="deadline">
      <label>
        {t("deadline")} <output>{set}</output>
        <input
          type="range"
          min={0}
          max={DEADLINES.length - 1}
          value={at}
          aria-valuetext={set}
          onInput={(event) => choose({ deadlineMs: DEADLINES[Number(event.currentTarget.value)] ?? null })}
        />
      </label>
      <span class={`prediction ${found && !found.fits ? "late" : ""}`} role="status">
        {found &&
          (found.fits
            ? t("will-take", { time: seconds(found.predicted_ms), tokens: whole(found.answer_tokens) })
            : t("would-take", { time: seconds(found.predicted_ms) }) +
              (found.fitting_tokens ? ` ${t("would-fit", { tokens: whole(found.fitting_tokens) })}` : ""))}
      </span>
    </div>
  );
}
