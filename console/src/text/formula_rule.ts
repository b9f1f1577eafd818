/** The rules by which markdown-it finds formulas: `$x$`, `$$x$$`, `\(x\)` and `\[x\]`. */
import type { MarkdownIt } from "markdown-it";

const INLINE: [open: string, close: string][] = [
  ["\\(", "\\)"],
  ["$", "$"],
];
const MOST_CHARACTERS = 2000; // of a formula: what is not closed by then is text
const MOST_LINES = 60;
const BLOCK: [open: string, close: string][] = [
  ["$$", "$$"],
  ["\\[", "\\]"],
];

/** A plugin of markdown-it that adds tokens `formula_inline` and `formula_block`. */
export function formulas(markdown: MarkdownIt): void {
  markdown.inline.ruler.before("escape", "formula_inline", (state, silent) => {
    const { src, pos } = state;
    for (const [open, close] of [...BLOCK, ...INLINE]) {
      if (!src.startsWith(open, pos)) continue;
      const start = pos + open.length;
      const length = src.slice(start, start + MOST_CHARACTERS).indexOf(close);
      const end = start + length;
      const content = src.slice(start, end);
      if (length < 0 || !content.trim() || (open === "$" && !isFormula(content, src[end + 1]))) continue;
      if (!silent) state.push(open === "$" || open === "\\(" ? "formula_inline" : "formula_block", "", 0).content = content;
      state.pos = end + close.length;
      return true;
    }
    return false;
  });
  markdown.block.ruler.before(
    "fence",
    "formula_block",
    (state, first, last, silent) => {
      const line = (at: number): string => state.src.slice((state.bMarks[at] ?? 0) + (state.tShift[at] ?? 0), state.eMarks[at]);
      const begin = line(first).trim();
      const pair = BLOCK.find(([open]) => begin.startsWith(open));
      if (!pair) return false;
      const [open, close] = pair;
      const lines = [begin.slice(open.length)];
      let at = first;
      while (!(lines[lines.length - 1] as string).trimEnd().endsWith(close)) {
        if (++at >= last || at > first + MOST_LINES) return false;
        lines.push(line(at));
      }
      if (silent) return true;
      const content = lines.join("\n").trimEnd().slice(0, -close.length);
      const token = state.push("formula_block", "", 0);
      token.content = content;
      token.map = [first, at + 1];
      state.line = at + 1;
      return true;
    },
    { alt: ["paragraph", "blockquote", "list"] },
  );
}

/** Return whether dollars hold a formula and no prices: pandoc's rule. */
function isFormula(content: string, next: string | undefined): boolean {
  return !/^\s|\s$|\n\n/.test(content) && !/\d/.test(next ?? "") && content.length < 1000;
}
