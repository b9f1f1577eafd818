/** The tasks that have a form: their routes, their fields and an example of each. */
import type { TextName } from "../i18n";

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
  example: { texts: string[]; values: Record<string, string> };
  columns: string[]; // members of a result that the table shows
}

const WORDS: Field = { name: "words", label: "carrying-words", kind: "number", optional: true };

export const FORMS: TaskForm[] = [
  {
    id: "classify",
    title: "task-classify",
    path: "v1/tasks/classify",
    fields: [{ name: "labels", label: "labels", kind: "list" }, WORDS],
    example: {
      texts: ["The parcel never came.", "Please send me an invoice.", "How do I reset my password?"],
      values: { labels: "delivery, billing, account", words: "3" },
    },
    columns: ["label", "probability", "words"],
  },
  {
    id: "sentiment",
    title: "task-sentiment",
    path: "v1/tasks/sentiment",
    fields: [WORDS],
    example: { texts: ["I love it, it works at once.", "It broke after a day."], values: { words: "3" } },
    columns: ["label", "probability", "words"],
  },
  {
    id: "summarize",
    title: "task-summarize",
    path: "v1/tasks/summarize",
    fields: [
      { name: "sentences", label: "most-sentences", kind: "number" },
      { name: "method", label: "method", kind: "choice", choices: ["extract", "write"], optional: true },
    ],
    example: {
      texts: [
        "The library lends books and tools. Members may keep a thing for three weeks. Whoever is late pays ten cents a day. " +
          "The house is open from nine to six on weekdays.",
      ],
      values: { sentences: "1" },
    },
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
    example: { texts: ["Good morning. Where is the station?"], values: { target: "zh" } },
    columns: ["text", "source", "confidence"],
  },
  {
    id: "extract",
    title: "task-extract",
    path: "v1/tasks/extract",
    fields: [{ name: "entities", label: "entities", kind: "list" }],
    example: { texts: ["Ada Lovelace was born in London on 10 December 1815."], values: { entities: "person, place, date" } },
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
    example: {
      texts: ["The cat sleeps.", "A dog barks.", "The stock fell."],
      values: { queries: "an animal rests", top: "2" },
    },
    columns: ["found"],
  },
  {
    id: "group",
    title: "task-group",
    path: "v1/tasks/group",
    fields: [{ name: "groups", label: "group-count", kind: "number", optional: true }],
    example: { texts: ["cats sleep", "dogs bark", "a cat naps", "shares fell", "bonds rose"], values: { groups: "2" } },
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
    example: { texts: ["Thank a customer for a long letter."], values: { most_words: "40" } },
    columns: ["text", "unmet"],
  },
];

/** Return the body of a task's request. */
export function bodyFor(form: TaskForm, texts: readonly string[], values: Record<string, string>, model: string): object {
  const body: Record<string, unknown> = { texts };
  if (model) body.model = model;
  for (const field of form.fields) {
    const value = values[field.name]?.trim() ?? "";
    if (!value) continue;
    if (field.kind === "list") body[field.name] = value.split(/[,\n，]/).map((each) => each.trim()).filter(Boolean);
    else body[field.name] = field.kind === "number" ? Number(value) : value;
  }
  return body;
}
