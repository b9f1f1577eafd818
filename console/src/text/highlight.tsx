/** Colours of code. lowlight gives a tree, so that no HTML is made of it; it is loaded with the first block of code. */
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";

export interface Node {
  type: string;
  value?: string;
  properties?: { className?: string[] };
  children?: Node[];
}

type Highlight = (text: string, language: string) => Node[] | null;

const MAX_CHARACTERS = 30_000; // beyond, colours take longer than a frame
const highlight = signal<Highlight | null>(null);
let loading: Promise<void> | undefined;

function load(): void {
  loading ??= import("./languages").then((module) => void (highlight.value = module.highlight)).catch(() => undefined);
}

/** Return code as elements with classes of highlight.js; plain text while the library is not here. */
export function highlighted(text: string, language: string): ComponentChildren {
  if (!language || text.length > MAX_CHARACTERS) return text;
  if (highlight.value === null) {
    load();
    return text;
  }
  const nodes = highlight.value(text, language);
  return nodes === null ? text : nodes.map(shown);
}

function shown(node: Node): ComponentChildren {
  if (node.type === "text") return node.value;
  const names = (node.properties?.className ?? []).filter((name) => /^[\w-]+$/.test(name));
  return <span class={names.join(" ")}>{node.children?.map(shown)}</span>;
}
