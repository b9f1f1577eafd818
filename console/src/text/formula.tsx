/** A formula as MathML, by Temml, which is loaded when the first formula is shown. */
import { signal } from "@preact/signals";
import type { VNode } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { t } from "../i18n";

type Render = (source: string, into: HTMLElement, display: boolean) => void;

const MAX_SOURCE = 4000;
const renderer = signal<Render | null>(null);
let loading: Promise<void> | undefined;

function load(): void {
  loading ??= import("./temml").then((module) => void (renderer.value = module.render)).catch(() => (loading = undefined));
}

/** A formula; its source is shown until the library is here, and where it is wrong. */
export function Formula({ source, display }: { source: string; display: boolean }): VNode {
  const place = useRef<HTMLSpanElement>(null);
  const render = renderer.value;
  useLayoutEffect(() => {
    const node = place.current;
    if (!node) return;
    node.textContent = source;
    if (source.length > MAX_SOURCE) return;
    if (render === null) load();
    else render(source, node, display);
  }, [source, display, render]);
  if (!display) return <span class="formula" ref={place} />;
  return <span class="formula display" tabIndex={0} role="group" aria-label={t("formula")} ref={place} />;
}
