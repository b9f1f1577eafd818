/** Texts of the page in the person's language. `t` names one; a name that is missing is a type error. */
import { signal } from "@preact/signals";
import { en } from "./en";
import { zh } from "./zh";

export type Language = "en" | "zh";
export type TextName = keyof typeof en;

export const language = signal<Language>("en");

/** Return a text; `{name}` in it is replaced by `values.name`. */
export function t(name: TextName, values: Record<string, string | number> = {}): string {
  const text = (language.value === "zh" ? zh : en)[name];
  return text.replace(/\{(\w+)\}/g, (whole, key: string) => (key in values ? String(values[key]) : whole));
}

/** Return a duration, rounded for people. */
export function seconds(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
}

/** Return a whole number with its separators. */
export function whole(value: number): string {
  return new Intl.NumberFormat(language.value === "zh" ? "zh-CN" : "en-US").format(value);
}
