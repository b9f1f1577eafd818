/** Options of a conversation: system prompt, parameters, schema and tools. */
import type { VNode } from "preact";
import { t, type TextName } from "../i18n";
import type { OnLate } from "../server/types";
import type { ChatOptions } from "../store/model";
import { choose, chosenOptions } from "./composer";

type NumberName = "temperature" | "topP" | "topK" | "maxTokens" | "seed";

const NUMBERS: [NumberName, TextName, min: number, max: number, step: number][] = [
  ["temperature", "temperature", 0, 100, 0.1],
  ["topP", "top-p", 0, 1, 0.05],
  ["topK", "top-k", 0, 1_000_000, 1],
  ["maxTokens", "max-tokens", 1, 1_000_000, 1],
  ["seed", "seed", 0, 2 ** 53 - 1, 1],
];

const LATE: OnLate[] = ["refuse", "shorten", "best_effort"];

/** The panel beside the chat. */
export function Options(): VNode {
  const options = chosenOptions();
  return (
    <aside class="options" aria-label={t("options")}>
      <label>
        {t("system-prompt")}
        <textarea rows={4} value={options.system} onInput={(event) => choose({ system: event.currentTarget.value })} />
      </label>
      {NUMBERS.map(([name, text, min, max, step]) => (
        <label key={name} class="row">
          {t(text)}
          <input
            type="number"
            {...{ min, max, step }}
            placeholder={t("usual")}
            value={options[name] ?? ""}
            onInput={(event) => choose(numberFrom(name, event.currentTarget))}
          />
        </label>
      ))}
      <label class="row">
        {t("when-late")}
        <select value={options.onLate} onChange={(event) => choose({ onLate: event.currentTarget.value as OnLate })}>
          {LATE.map((each) => (
            <option key={each} value={each}>
              {t(`late-${each}` as TextName)}
            </option>
          ))}
        </select>
      </label>
      <Switch name="thinking" text="think-first" options={options} />
      <Switch name="probabilities" text="ask-probabilities" options={options} />
      <details open={options.schema !== ""}>
        <summary>{t("schema")}</summary>
        <JsonField name="schema" options={options} example={'{"type": "object", "properties": {"name": {"type": "string"}}}'} />
      </details>
      <details open={options.tools !== ""}>
        <summary>{t("tools")}</summary>
        <JsonField name="tools" options={options} example={'[{"type": "function", "function": {"name": "weather"}}]'} />
      </details>
    </aside>
  );
}

function numberFrom(name: NumberName, input: HTMLInputElement): Partial<ChatOptions> {
  if (input.value === "") return { [name]: null };
  return input.checkValidity() ? { [name]: input.valueAsNumber } : {};
}

function Switch({ name, text, options }: { name: "thinking" | "probabilities"; text: TextName; options: ChatOptions }): VNode {
  return (
    <label class="check">
      <input type="checkbox" checked={options[name]} onChange={(event) => choose({ [name]: event.currentTarget.checked })} />
      {t(text)}
    </label>
  );
}

function JsonField({ name, options, example }: { name: "schema" | "tools"; options: ChatOptions; example: string }): VNode {
  const text = options[name];
  return (
    <>
      <textarea
        class="json"
        rows={6}
        spellcheck={false}
        aria-label={t(name)}
        aria-invalid={!isJson(text)}
        placeholder={example}
        value={text}
        onInput={(event) => choose({ [name]: event.currentTarget.value })}
      />
      {!isJson(text) && <p class="problem">{t("not-json")}</p>}
    </>
  );
}

function isJson(text: string): boolean {
  if (!text.trim()) return true;
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
