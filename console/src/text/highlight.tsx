/**
 * Colours of code, which follow its text: each block is coloured in a task of its own.
 *
 * lowlight gives a tree, so that no HTML is made of it; it is loaded with the first block of code. While a block grows,
 * its coloured beginning stays, and it is coloured again when it has grown by a share or stopped growing. Invariant: text
 * is shown at once and whole, coloured or not.
 */
import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";

export interface Node {
  type: string;
  value?: string;
  properties?: { className?: string[] };
  children?: Node[];
}

type Highlight = (text: string, language: string) => Node[] | null;

const MAX_CHARACTERS = 20_000; // beyond, colours take longer than a task may
const GROWTH = 1.25; // of a block's length, from which on it is coloured again
const PAUSE_MS = 300; // without growth, likewise

let loading: Promise<Highlight> | undefined;
const waiting: (() => void)[] = [];
let isWorking = false;

function load(): Promise<Highlight> {
  loading ??= import("./languages").then((module) => module.highlight);
  loading.catch(() => (loading = undefined)); // the next block asks again
  return loading;
}

/** Run jobs one after another, each in a task of its own. */
function later(job: () => void): void {
  waiting.push(job);
  if (!isWorking) setTimeout(work);
  isWorking = true;
}

function work(): void {
  waiting.shift()?.();
  isWorking = waiting.length > 0;
  if (isWorking) setTimeout(work);
}

interface Coloured {
  text: string;
  language: string;
  nodes: ComponentChildren;
}

/** Return code as elements with classes of highlight.js; plain text as long as, and as far as, it has no colours. */
export function useHighlighted(text: string, language: string): ComponentChildren {
  const [coloured, setColoured] = useState<Coloured | null>(null);
  const isBegun = coloured !== null && coloured.language === language && text.startsWith(coloured.text);
  const isDone = isBegun && coloured.text === text;
  useEffect(() => {
    if (isDone || !language || text.length > MAX_CHARACTERS) return;
    let isWanted = true;
    const colour = (): void => void load().then((highlight) => later(() => {
      if (!isWanted) return;
      const nodes = highlight(text, language);
      if (nodes) setColoured({ text, language, nodes: nodes.map(shown) });
    })).catch(() => undefined);
    const timer = setTimeout(colour, isBegun && text.length < GROWTH * coloured.text.length ? PAUSE_MS : 0);
    return () => {
      isWanted = false;
      clearTimeout(timer);
    };
  }, [text, language]);
  if (!isBegun) return text;
  return isDone ? coloured.nodes : [coloured.nodes, text.slice(coloured.text.length)];
}

function shown(node: Node): ComponentChildren {
  if (node.type === "text") return node.value;
  const names = (node.properties?.className ?? []).filter((name) => /^[\w-]+$/.test(name));
  return <span class={names.join(" ")}>{node.children?.map(shown)}</span>;
}
