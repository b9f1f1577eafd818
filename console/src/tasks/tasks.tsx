/** Tasks: a form for each, results as a table, texts from and results to CSV. */
import { signal } from "@preact/signals";
import type { VNode } from "preact";
import { useRef, useState } from "preact/hooks";
import { language, t, type TextName, whole } from "../i18n";
import { requestJson } from "../server/http";
import { models } from "../server/models";
import { saveFile } from "../ui/copy";
import { describe } from "../ui/failures";
import { textOf } from "../ui/files";
import { Scrolled } from "../ui/scrolled";
import { readCsv, writeCsv } from "./csv";
import { type Example, EXAMPLES } from "./examples";
import { bodyFor, type Field, FORMS, listed, pathFor, type Result, type TaskForm, type Values } from "./forms";

const MOST_SHOWN = 500;
const AT_ONCE = 256; // texts of one request
const MAX_CSV_BYTES = 8 << 20;

const chosen = signal(FORMS[0]?.id ?? "");

/** The view of tasks. */
export function Tasks(): VNode {
  const form = FORMS.find((each) => each.id === chosen.value) as TaskForm;
  return (
    <div class="page" tabIndex={0}>
      <h1>{t("view-tasks")}</h1>
      <label class="row">
        {t("task")}
        <select value={chosen.value} onChange={(event) => (chosen.value = event.currentTarget.value)}>
          {FORMS.map((each) => (
            <option key={each.id} value={each.id}>
              {t(each.title)}
            </option>
          ))}
        </select>
      </label>
      <TaskView key={form.id} form={form} />
    </div>
  );
}

function TaskView({ form }: { form: TaskForm }): VNode {
  const example = EXAMPLES[form.id]?.[language.value] as Example;
  const [texts, setTexts] = useState(example.texts.join("\n"));
  const [values, setValues] = useState<Values>(example.values);
  const [model, setModel] = useState("");
  const [results, setResults] = useState<Result[]>([]);
  const [askedTexts, setAsked] = useState<string[]>([]);
  const [problem, setProblem] = useState("");
  const [isRunning, setRunning] = useState(false);
  const run = async (event: SubmitEvent): Promise<void> => {
    event.preventDefault();
    const lines = texts.split("\n").map((each) => each.trim()).filter(Boolean);
    setProblem("");
    setResults([]);
    setAsked(form.id === "similar" ? listed(values.queries ?? "") : lines);
    setRunning(true);
    try {
      const step = form.single ? 1 : form.id === "similar" || form.id === "group" ? lines.length : AT_ONCE;
      const found: Result[] = [];
      for (let at = 0; at < lines.length; at += step) {
        found.push(...(await asked(form, lines.slice(at, at + step), values, model)));
        setResults([...found]);
      }
    } catch (error) {
      setProblem(describe(error));
    } finally {
      setRunning(false);
    }
  };
  return (
    <form class="panel" onSubmit={(event) => void run(event)}>
      <label>
        {t("texts")}
        <textarea rows={6} required value={texts} onInput={(event) => setTexts(event.currentTarget.value)} />
      </label>
      <CsvInput onRead={(lines) => setTexts(lines.join("\n"))} onProblem={setProblem} />
      {form.fields.map((field) => (
        <FieldView key={field.name} field={field} value={values[field.name] ?? ""} onChange={(value) => setValues({ ...values, [field.name]: value })} />
      ))}
      <label class="row">
        {t("model")}
        <select value={model} onChange={(event) => setModel(event.currentTarget.value)}>
          <option value="">{t("usual")}</option>
          {models.value.map((each) => (
            <option key={each.id} value={each.id}>
              {each.id}
            </option>
          ))}
        </select>
      </label>
      <button type="submit" class="primary" disabled={isRunning}>
        {isRunning ? t("running") : t("run")}
      </button>
      {problem && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
      {results.length > 0 && <Results form={form} texts={askedTexts} results={results} />}
    </form>
  );
}

/** Ask for the results of some texts. Throws `ServerError`. */
async function asked(form: TaskForm, texts: readonly string[], values: Values, model: string): Promise<Result[]> {
  const { single } = form;
  if (!single) return (await requestJson<{ data: Result[] }>(form.path, { body: bodyFor(form, texts, values, model) })).data;
  const body = { ...single.body(texts[0] ?? "", values), ...(model ? { [single.modelField ?? "model"]: model } : {}) };
  return [single.row(await requestJson<Result>(pathFor(form, values), { body }))];
}

function FieldView({ field, value, onChange }: { field: Field; value: string; onChange: (value: string) => void }): VNode {
  return (
    <label class="row">
      {t(field.label)}
      {field.kind === "choice" ? (
        <select value={value} onChange={(event) => onChange(event.currentTarget.value)}>
          <option value="">{t("usual")}</option>
          {field.choices?.map((each) => (
            <option key={each} value={each}>
              {t(`choice-${each}` as TextName)}
            </option>
          ))}
        </select>
      ) : (
        <input
          value={value}
          required={!field.optional}
          {...(field.kind === "number" ? ({ type: "number", min: 1 } as const) : ({ type: "text" } as const))}
          onInput={(event) => onChange(event.currentTarget.value)}
        />
      )}
    </label>
  );
}

function CsvInput({ onRead, onProblem }: { onRead: (lines: string[]) => void; onProblem: (text: string) => void }): VNode {
  const input = useRef<HTMLInputElement>(null);
  const read = async (file: File | undefined): Promise<void> => {
    if (!file) return;
    try {
      const rows = readCsv(await textOf(file, MAX_CSV_BYTES));
      onRead(rows.map((row) => (row[0] ?? "").replace(/\s+/g, " ")));
    } catch (error) {
      onProblem(describe(error));
    }
  };
  return (
    <p>
      <button type="button" onClick={() => input.current?.click()}>
        {t("read-csv")}
      </button>
      <input
        ref={input}
        class="offscreen"
        type="file"
        accept=".csv,text/csv,.txt"
        tabIndex={-1}
        aria-label={t("read-csv")}
        onChange={(event) => {
          void read(event.currentTarget.files?.[0]);
          event.currentTarget.value = "";
        }}
      />
    </p>
  );
}

function Results({ form, texts, results }: { form: TaskForm; texts: readonly string[]; results: readonly Result[] }): VNode {
  const rows = results.map((result, at) => [texts[at] ?? "", ...form.columns.map((name) => shown(result.error ?? result[name]))]);
  const heads = [t("text"), ...form.columns.map((name) => t(`column-${name}` as TextName))];
  return (
    <>
      <p class="hint">
        {t("count-results", { count: whole(rows.length) })}{" "}
        <button type="button" onClick={() => saveFile(`${form.id}.csv`, writeCsv([heads, ...rows]), "text/csv")}>
          {t("save-csv")}
        </button>
      </p>
      <Scrolled name={t("results")}>
        <table>
          <thead>
            <tr>
              {heads.map((head) => (
                <th key={head} scope="col">
                  {head}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.slice(0, MOST_SHOWN).map((row, at) => (
              <tr key={at}>
                {row.map((cell, column) => (
                  <td key={column}>{column === 0 ? marked(cell, results[at]) : cell}</td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </Scrolled>
    </>
  );
}

/** A word that carries a label: it stands at `start` to `end`, counted in code points. */
interface CarryingWord {
  word: string;
  start: number;
  end: number;
  effect: number;
}

function isCarryingWord(value: unknown): value is CarryingWord {
  return typeof value === "object" && value !== null && "word" in value && "effect" in value;
}

/** Return a text with the words marked that raise or lower its label's log-odds. */
function marked(text: string, result: Result | undefined): (string | VNode)[] | string {
  const words = Array.isArray(result?.words) ? result.words.filter(isCarryingWord) : [];
  if (words.length === 0) return text;
  const letters = [...text];
  const parts: (string | VNode)[] = [];
  let done = 0;
  for (const each of [...words].sort((a, b) => a.start - b.start)) {
    parts.push(letters.slice(done, each.start).join(""));
    parts.push(
      <mark key={each.start} class={each.effect > 0 ? "raises" : "lowers"} title={signed(each.effect)}>
        {letters.slice(each.start, each.end).join("")}
      </mark>,
    );
    done = each.end;
  }
  return [...parts, letters.slice(done).join("")];
}

function signed(value: number): string {
  return `${value > 0 ? "+" : ""}${shown(value)}`;
}

function shown(value: unknown): string {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(Math.round(value * 1000) / 1000);
  if (typeof value === "string") return value;
  if (isCarryingWord(value)) return `${value.word} ${signed(value.effect)}`;
  if (Array.isArray(value)) return value.map(shown).join("; ");
  const entries = Object.entries(value as Record<string, unknown>);
  const texts = entries.filter(([name]) => name !== "index").map(([name, each]) => `${name}: ${shown(each)}`);
  return texts.join(", ");
}
