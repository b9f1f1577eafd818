// Checks the page's Markdown on random texts: one that was parsed as it grew has the blocks of the whole text.
//
// Needs no browser. The texts follow from their number alone. Prints how many were compared; ends with 1 at a difference.
import { build } from "esbuild";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const TEXTS = Number(process.argv[2] ?? 1000);
const PARTS = ["\n", "\n", "\n", "\n\n", "\n\n", "\n\n", " ", "    ", "\t", "- a", "  - n", "+ i", "* ", "- ", "-", "--", "---", "===", "***"];
PARTS.push("1. b", "2.", "3) z", "1", "1.5", "```", "```py", "~~~", "| a | b |", "|---|---|", "| 1 | 2 |", "# h", "#", "> q", ">");
PARTS.push("text", "**x**", "`c`", "$x$", "[l](http://e.x)", "\\", "&amp;", "<b>", "中文");

let state = 7;
function drawn(below) {
  state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
  return (state >> 8) % below;
}

async function markdown() {
  const folder = mkdtempSync(join(tmpdir(), "console-"));
  const outfile = join(folder, "markdown.mjs");
  try {
    const common = { bundle: true, format: "esm", platform: "node", jsx: "automatic", jsxImportSource: "preact" };
    await build({ ...common, absWorkingDir: HERE, entryPoints: [join(HERE, "src/text/markdown.tsx")], outfile });
    return await import(pathToFileURL(outfile));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const { grown, isExact, parsed } = await markdown();
const shape = ({ blocks }) =>
  JSON.stringify(
    blocks.map(({ tokens }) =>
      tokens.map(({ type, tag, content, nesting, hidden, children }) => [
        ...[type, tag, content, nesting, hidden],
        children?.map((each) => [each.type, each.content]),
      ]),
    ),
  );

let compared = 0;
for (let number = 0; number < TEXTS; number++) {
  const text = Array.from({ length: 5 + drawn(25) }, () => PARTS[drawn(PARTS.length)]).join("");
  let found = null;
  for (let end = 0; end < text.length; ) {
    end = Math.min(text.length, end + 1 + drawn(4));
    found = grown(text.slice(0, end), found);
  }
  if (!isExact(found)) continue;
  compared++;
  if (shape(found) === shape(parsed(text))) continue;
  console.error(`a text that grew has other blocks than the whole: ${JSON.stringify(text)}`);
  process.exit(1);
}
console.log(compared);
