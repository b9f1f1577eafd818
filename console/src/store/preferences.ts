/** Choices of the person at this browser: language, colours, and the options that new conversations begin with. */
import { effect, signal } from "@preact/signals";
import { type Language, language } from "../i18n";
import type { ChatOptions } from "./model";

export type Theme = "system" | "light" | "dark";

export interface Preferences {
  language: Language | "system";
  theme: Theme;
  chat: Partial<ChatOptions>;
}

const NAME = "miaotui.preferences";
const DEFAULTS: Preferences = { language: "system", theme: "system", chat: {} };

export const preferences = signal<Preferences>(read());

function read(): Preferences {
  try {
    const found = JSON.parse(localStorage.getItem(NAME) ?? "{}") as Partial<Preferences>;
    return { ...DEFAULTS, ...found };
  } catch {
    return DEFAULTS;
  }
}

export function prefer(changes: Partial<Preferences>): void {
  preferences.value = { ...preferences.value, ...changes };
  try {
    localStorage.setItem(NAME, JSON.stringify(preferences.value));
  } catch {
    // a full or forbidden storage: the choice holds until the page is closed
  }
}

function systemLanguage(): Language {
  return navigator.languages.some((each) => each.toLowerCase().startsWith("zh")) &&
    !navigator.language.toLowerCase().startsWith("en")
    ? "zh"
    : "en";
}

/** Keep the page's language and colours as they are chosen. */
export function applyPreferences(): void {
  effect(() => {
    const chosen = preferences.value;
    language.value = chosen.language === "system" ? systemLanguage() : chosen.language;
    const root = document.documentElement;
    root.lang = language.value === "zh" ? "zh-CN" : "en";
    if (chosen.theme === "system") delete root.dataset.theme;
    else root.dataset.theme = chosen.theme;
  });
}
