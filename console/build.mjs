// Builds the console into the Python package: hashed files, a page that names them, and a manifest.
//
// The manifest holds a digest of the sources, so that a test can tell whether what was built is what is here, also
// where there is no node. Nothing of the build depends on time, place or order: equal sources give equal bytes.
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { basename, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const OUT = process.argv[2] ?? join(HERE, "..", "src", "miaotui", "serve", "console", "built");
const SOURCES = ["src", "index.html", "icon.svg", "build.mjs", "package.json", "package-lock.json", "tsconfig.json"];

function filesUnder(path) {
  if (!statSync(path).isDirectory()) return [path];
  return readdirSync(path).flatMap((name) => filesUnder(join(path, name)));
}

/** Return the digest of all sources: SHA-256 over "path NUL bytes NUL" in the order of their paths. */
function digestOfSources() {
  const digest = createHash("sha256");
  const files = SOURCES.flatMap((name) => filesUnder(join(HERE, name)));
  const named = files.map((path) => [relative(HERE, path).split(sep).join("/"), path]);
  for (const [name, path] of named.sort(([a], [b]) => (a < b ? -1 : 1)))
    digest.update(name).update("\0").update(readFileSync(path)).update("\0");
  return digest.digest("hex");
}

/** Return the licences of the libraries that the files contain. */
function licences(inputs) {
  const packages = new Set();
  for (const input of inputs) {
    const found = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input);
    if (found) packages.add(found[1]);
  }
  const texts = [...packages].sort().map((name) => {
    const folder = join(HERE, "node_modules", name);
    const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    const file = readdirSync(folder).find((each) => /^licen[sc]e(\.|$)/i.test(each));
    const text = file ? readFileSync(join(folder, file), "utf8").trim() : license;
    return `${name} ${version} (${license})\n\n${text}\n`;
  });
  return `The console contains these libraries.\n\n${texts.join(`\n${"-".repeat(72)}\n\n`)}`;
}

function hashed(name, bytes) {
  const digest = createHash("sha256").update(bytes).digest("hex").slice(0, 12);
  const dot = name.lastIndexOf(".");
  return `${name.slice(0, dot)}-${digest}${name.slice(dot)}`;
}

const COMMON = {
  absWorkingDir: HERE,
  outdir: OUT,
  bundle: true,
  format: "esm",
  target: ["chrome123", "firefox120", "safari17.5"],
  minify: true,
  charset: "utf8",
  legalComments: "none",
  entryNames: "[name]-[hash]",
  write: false,
};

// An AudioWorklet loads a file by its address, so this one is built first, and the page is given its name.
const worklet = await build({ ...COMMON, entryPoints: { worklet: join(HERE, "src/speech/worklet.ts") } });
const result = await build({
  ...COMMON,
  entryPoints: { console: join(HERE, "src/main.tsx"), style: join(HERE, "src/styles/console.css") },
  define: { WORKLET: JSON.stringify(basename(worklet.outputFiles[0].path)) },
  splitting: true,
  jsx: "automatic",
  jsxImportSource: "preact",
  chunkNames: "part-[hash]",
  metafile: true,
});

if (existsSync(OUT)) rmSync(OUT, { recursive: true });
mkdirSync(OUT, { recursive: true });
const names = {};
for (const file of [...worklet.outputFiles, ...result.outputFiles]) {
  const name = basename(file.path);
  writeFileSync(join(OUT, name), file.contents);
  if (/^(console|style)-/.test(name)) names[name.split("-")[0]] = name;
}
const icon = readFileSync(join(HERE, "icon.svg"));
names.icon = hashed("icon.svg", icon);
writeFileSync(join(OUT, names.icon), icon);
const page = readFileSync(join(HERE, "index.html"), "utf8")
  .replace("@icon@", names.icon)
  .replace("@style@", names.style)
  .replace("@script@", names.console);
writeFileSync(join(OUT, "index.html"), page);
writeFileSync(join(OUT, "LICENSES.txt"), licences(Object.keys(result.metafile.inputs)));
writeFileSync(join(OUT, "manifest.json"), `${JSON.stringify({ sources: digestOfSources() }, null, 2)}\n`);
