/**
 * Markdown as elements, without HTML in between.
 *
 * markdown-it parses; each of its tokens becomes one element of a fixed list here, so that no text of a model, a document
 * or a file is ever read as HTML. Links lead to http, https and mail only, and pictures are links: nothing is fetched
 * unless a person follows it. An unknown token is shown as its text.
 */
import MarkdownIt, { type Token } from "markdown-it";
import { type ComponentChildren, h, type VNode } from "preact";
import { useRef } from "preact/hooks";
import { t } from "../i18n";
import { memo } from "../ui/memo";
import { Scrolled } from "../ui/scrolled";
import { CodeBlock } from "./code";
import { Formula } from "./formula";
import { formulas } from "./formula_rule";

const parser = new MarkdownIt({ html: false, linkify: true, breaks: false, typographer: false });
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false, fuzzyIP: false });
parser.validateLink = (url: string) => safeUrl(url) !== null;
parser.use(formulas);

const SAFE = /^(https?:|mailto:)/i;
const MAX_URL = 2048;

/** Return an address that may be followed; null for any other. */
export function safeUrl(url: string): string | null {
  const plain = url.trim();
  return plain.length <= MAX_URL && SAFE.test(plain) ? plain : null;
}

// Elements that a token may become. Everything else is text.
const ELEMENTS = new Set([
  ...["p", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td"],
  ...["em", "strong", "s", "a", "hr", "br", "code"],
]);

interface Frame {
  tag: string;
  props: Record<string, unknown>;
  children: ComponentChildren[];
}

/** Return the elements of markdown-it's tokens. */
function elements(tokens: readonly Token[]): ComponentChildren[] {
  const stack: Frame[] = [{ tag: "", props: {}, children: [] }];
  for (const token of tokens) {
    const top = stack[stack.length - 1] as Frame;
    if (token.nesting === 1) {
      stack.push({ tag: token.hidden ? "" : token.tag, props: attributes(token), children: [] });
    } else if (token.nesting === -1) {
      const { tag, props, children } = stack.pop() as Frame;
      const parent = stack[stack.length - 1] ?? top;
      if (ELEMENTS.has(tag)) parent.children.push(element(tag, props, children));
      else parent.children.push(...children);
    } else top.children.push(single(token));
  }
  return (stack[0] as Frame).children;
}

function element(tag: string, props: Record<string, unknown>, children: ComponentChildren[]): VNode {
  if (tag === "table") return <Scrolled name={t("table")}>{h("table", null, ...children)}</Scrolled>;
  return h(tag, props, ...children);
}

function attributes(token: Token): Record<string, unknown> {
  if (token.type === "link_open") return linkTo(String(token.attrGet("href") ?? ""));
  const start = token.attrGet("start");
  if (token.type === "ordered_list_open" && start !== null) return { start: Number(start) || 1 };
  const align = /text-align:(left|right|center)/.exec(String(token.attrGet("style") ?? ""))?.[1];
  return align ? { class: `align-${align}` } : {};
}

function linkTo(url: string): Record<string, unknown> {
  const href = safeUrl(url);
  return href === null ? {} : { href, target: "_blank", rel: "noopener noreferrer nofollow", title: href };
}

function single(token: Token): ComponentChildren {
  switch (token.type) {
    case "inline":
      return elements(token.children ?? []);
    case "fence":
    case "code_block":
      return <CodeBlock text={token.content} language={token.info.trim().split(/\s+/, 1)[0] ?? ""} />;
    case "code_inline":
      return <code>{token.content}</code>;
    case "softbreak":
      return "\n";
    case "hardbreak":
      return <br />;
    case "hr":
      return <hr />;
    case "image":
      return picture(token);
    case "formula_inline":
    case "formula_block":
      return <Formula source={token.content} display={token.type === "formula_block"} />;
    default:
      return token.content;
  }
}

/** Return a link in place of a picture: to load one would tell its server that the answer was read. */
function picture(token: Token): ComponentChildren {
  const url = String(token.attrGet("src") ?? "");
  const name = token.content || url;
  return safeUrl(url) === null ? `[${name}]` : <a {...linkTo(url)}>{`🖼 ${name}`}</a>;
}

interface Block {
  source: string;
  start: number; // its first character in the text
  tokens: Token[];
  definitions: number; // of links, known when it was parsed
}

interface Parsed {
  text: string;
  blocks: Block[];
  env: Record<string, unknown>; // the definitions of links
}

/** Return the top-level blocks of a text from `start` on, each with the lines that it came from. */
function blocksFrom(text: string, start: number, env: Record<string, unknown>): Block[] {
  const lines = text.slice(start).split("\n");
  const starts = [start];
  for (const line of lines) starts.push((starts[starts.length - 1] as number) + line.length + 1);
  const blocks: Block[] = [];
  let level = 0;
  for (const token of parser.parse(text.slice(start), env)) {
    if (level === 0) {
      const [first, end] = token.map ?? [0, 0];
      blocks.push({ source: lines.slice(first, end).join("\n"), start: starts[first] ?? start, tokens: [], definitions: 0 });
    }
    level += token.nesting;
    blocks[blocks.length - 1]?.tokens.push(token);
  }
  const definitions = definitionsIn(env);
  for (const block of blocks) block.definitions = definitions;
  return blocks;
}

function definitionsIn(env: Record<string, unknown>): number {
  return Object.keys((env.references as object | undefined) ?? {}).length;
}

/**
 * Parse a text that is `before` with more at its end. A last line without its end may have begun a block that it does not
 * begin when it is whole, so what is added can change the last two blocks: those are parsed again. Exceptions are
 * definitions of links, which change blocks before them, and formulas over several blocks; `isExact` says whether there
 * are any.
 */
export function grown(text: string, before: Parsed | null): Parsed {
  const again = before?.blocks[Math.max(0, before.blocks.length - 2)];
  if (!before || !again || !text.startsWith(before.text)) return parsed(text);
  const { env } = before;
  return { text, blocks: [...before.blocks.slice(0, -2), ...blocksFrom(text, again.start, env)], env };
}

/** Parse a whole text. */
export function parsed(text: string): Parsed {
  const env: Record<string, unknown> = {};
  return { text, blocks: blocksFrom(text, 0, env), env };
}

/** Return whether a text that was parsed as it grew has the blocks that a parse of the whole gives. */
export function isExact({ text, env }: Parsed): boolean {
  return definitionsIn(env) === 0 && !text.includes("$$") && !text.includes("\\[");
}

// A block whose lines have not changed is not rendered again: while an answer streams, that is all but the last. One with
// brackets may hold a link whose definition has come since.
const BlockView = memo(
  ({ block }: { block: Block }) => <>{elements(block.tokens)}</>,
  ({ block: before }, { block: after }) =>
    before === after ||
    (before.source === after.source && (before.definitions === after.definitions || !after.source.includes("["))),
);

interface Given {
  text: string;
  growing?: boolean;
}

/** A text in Markdown; `growing` while more comes. */
export const Markdown = memo<Given>(MarkdownView, (before, after) => before.text === after.text && before.growing === after.growing);

function MarkdownView({ text, growing = false }: Given): VNode {
  const before = useRef<Parsed | null>(null);
  before.current = grown(text, before.current);
  if (!growing && !isExact(before.current)) before.current = parsed(text);
  return (
    <div class="markdown">
      {before.current.blocks.map((block, index) => (
        <BlockView key={index} block={block} />
      ))}
    </div>
  );
}
