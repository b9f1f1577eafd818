/** The tasks that have a form: their routes, their fields, and what is sent and shown. */
import type { TextName } from "../i18n";

export type Result = Record<string, unknown>;
export type Values = Record<string, string>;

export interface Field {
  name: string;
  label: TextName;
  kind: "text" | "list" | "number" | "choice";
  choices?: string[];
  optional?: boolean;
}

export interface TaskForm {
  id: string;
  title: TextName;
  path: string;
  fields: Field[];
  columns: string[]; // members of a result that the table shows
  single?: Single; // of routes that take one text
}

/** What a route that takes one text is sent, and the row of its answer. */
interface Single {
  body: (text: string, values: Values) => Result;
  row: (answer: Result) => Result;
  modelField?: string; // of its body; "model" if it is not named
}

const WORDS: Field = { name: "words", label: "carrying-words", kind: "number", optional: true };

export const FORMS: TaskForm[] = [
  {
    id: "classify",
    title: "task-classify",
    path: "v1/tasks/classify",
    fields: [{ name: "labels", label: "labels", kind: "list" }, WORDS],
    columns: ["label", "probability", "words"],
  },
  {
    id: "sentiment",
    title: "task-sentiment",
    path: "v1/tasks/sentiment",
    fields: [WORDS],
    columns: ["label", "probability", "words"],
  },
  {
    id: "decide",
    title: "task-decide",
    path: "v1/decisions",
    fields: [
      { name: "type", label: "question-kind", kind: "choice", choices: ["predicate", "choice", "score"] },
      { name: "instructions", label: "question", kind: "text" },
      { name: "options", label: "answers", kind: "list", optional: true },
    ],
    columns: ["label", "probability", "confidence"],
    single: { body: decisionBody, row: decisionRow },
  },
  {
    id: "summarize",
    title: "task-summarize",
    path: "v1/tasks/summarize",
    fields: [
      { name: "sentences", label: "most-sentences", kind: "number" },
      { name: "method", label: "method", kind: "choice", choices: ["extract", "write"], optional: true },
    ],
    columns: ["text"],
  },
  {
    id: "translate",
    title: "task-translate",
    path: "v1/tasks/translate",
    fields: [
      { name: "target", label: "target-language", kind: "text" },
      { name: "source", label: "source-language", kind: "text", optional: true },
    ],
    columns: ["text", "source", "confidence"],
  },
  {
    id: "extract",
    title: "task-extract",
    path: "v1/tasks/extract",
    fields: [{ name: "entities", label: "entities", kind: "list" }],
    columns: ["values"],
  },
  {
    id: "similar",
    title: "task-similar",
    path: "v1/tasks/similar",
    fields: [
      { name: "queries", label: "queries", kind: "list" },
      { name: "top", label: "top", kind: "number", optional: true },
    ],
    columns: ["found"],
  },
  {
    id: "group",
    title: "task-group",
    path: "v1/tasks/group",
    fields: [{ name: "groups", label: "group-count", kind: "number", optional: true }],
    columns: ["group", "name"],
  },
  {
    id: "generate",
    title: "task-generate",
    path: "v1/tasks/generate",
    fields: [
      { name: "mode", label: "mode", kind: "choice", choices: ["generate", "rewrite", "continue"], optional: true },
      { name: "style", label: "style", kind: "text", optional: true },
      { name: "most_words", label: "most-words", kind: "number", optional: true },
    ],
    columns: ["text", "unmet"],
  },
  {
    id: "recommend",
    title: "task-recommend",
    path: "v1/recommendations",
    fields: [
      { name: "recommender", label: "recommender", kind: "text" },
      { name: "n", label: "top", kind: "number", optional: true },
    ],
    columns: ["found"],
    single: {
      body: (text, values) => ({ recommender: values.recommender, history: listed(text), ...numbered("n", values) }),
      row: (answer) => ({ found: (answer.items as Result[]).map(({ item, score }) => ({ item, score })) }),
    },
  },
  {
    id: "graph",
    title: "task-graph",
    path: "v1/graphs/{graph}/ask",
    fields: [
      { name: "graph", label: "graph", kind: "text" },
      { name: "hops", label: "hops", kind: "number", optional: true },
    ],
    columns: ["text", "probability", "paths"],
    single: {
      modelField: "words_from",
      body: (text, values) => ({ question: text, ...numbered("hops", values) }),
      row: (answer) => ({ ...answer, text: answer.text || answer.reason, paths: (answer.paths as string[][][]).map((path) => path.map((each) => each.join(" → ")).join(", ")) }),
    },
  },
];

/** Return the names in a list that a person writes. */
export function listed(text: string): string[] {
  return text.split(/[,\n，、]/).map((each) => each.trim()).filter(Boolean);
}

function numbered(name: string, values: Values): Result {
  return values[name] ? { [name]: Number(values[name]) } : {};
}

function decisionBody(text: string, values: Values): Result {
  const { instructions = "", options = "" } = values;
  const type = values.type || "predicate";
  const question: Result = { type, instructions };
  if (type === "choice") question.choices = listed(options).map((value) => ({ value }));
  if (type === "score") question.levels = listed(options).map((label) => ({ label }));
  return { input: text, questions: [question] };
}

/** Return the answer of the only question; of a predicate the probability of yes. */
function decisionRow({ answers }: Result): Result {
  const [found] = answers as Result[];
  if (!found || found.error) return { error: found?.error };
  if (found.type === "predicate") return { label: (found.probability as number) >= 0.5 ? "✓" : "✗", probability: found.probability };
  const rows = found.probabilities as Result[];
  const best = rows.reduce((a, b) => ((b.probability as number) > (a.probability as number) ? b : a));
  return { label: found.type === "score" ? best.label : found.choice, probability: best.probability, confidence: found.confidence };
}

/** Return the route of a task; names of its values stand in it. */
export function pathFor(form: TaskForm, values: Values): string {
  return form.path.replace(/\{(\w+)\}/, (_, name: string) => encodeURIComponent(values[name] ?? ""));
}

/** Return the body of a task's request. */
export function bodyFor(form: TaskForm, texts: readonly string[], values: Values, model: string): Result {
  const body: Result = { texts };
  if (model) body.model = model;
  for (const field of form.fields) {
    const value = values[field.name]?.trim() ?? "";
    if (!value) continue;
    if (field.kind === "list") body[field.name] = listed(value);
    else body[field.name] = field.kind === "number" ? Number(value) : value;
  }
  return body;
}
