/** Temml, apart from the rest: a page without formulas does not load it. */
import temml from "temml";

/** Put a formula into an element, whose text stays where the formula is wrong. */
export function render(source: string, into: HTMLElement, display: boolean): void {
  const made = document.createElement("span");
  try {
    temml.render(source, made, { displayMode: display, throwOnError: true, trust: false, maxExpand: 100, strict: false });
  } catch {
    return;
  }
  for (const link of made.querySelectorAll("[href]")) link.removeAttribute("href");
  into.replaceChildren(...made.childNodes);
}
