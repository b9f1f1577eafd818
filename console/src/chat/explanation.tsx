/** Why an answer was fast, and why it says this: its tokens by source or probability, and its time line. */
import type { VNode } from "preact";
import { useState } from "preact/hooks";
import { seconds, t, type TextName, whole } from "../i18n";
import type { Alternative, TokenNote } from "../server/types";
import type { Conversation, Message } from "../store/model";
import { goOn } from "./generation";
import { TimelineView } from "./timeline";

type Colours = "source" | "probability";

const SOURCES: Record<string, TextName> = {
  model: "source-model",
  text: "source-text",
  passages: "source-passages",
  past: "source-past",
  head: "source-head",
  grammar: "source-grammar",
  given: "source-given",
  cache: "source-cache",
};

export function sourceName(source: string): string {
  const name = SOURCES[source];
  return name ? t(name) : source;
}

const MOST_SHOWN = 4000; // tokens; an element each

interface Given {
  message: Message;
  conversation: Conversation;
}

/** The line of figures below an answer, which opens to its tokens and times. */
export function Explanation({ message, conversation }: Given): VNode | null {
  const [isOpen, setOpen] = useState(false);
  const answer = message.answer;
  if (!answer || answer.tokens.length === 0) return null;
  return (
    <details class="explanation" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{figures(message)}</summary>
      {isOpen && (
        <>
          <Tokens message={message} conversation={conversation} />
          {answer.timeline && <TimelineView timeline={answer.timeline} deadline={answer.deadline} />}
        </>
      )}
    </details>
  );
}

function figures(message: Message): string {
  const { tokens, deadline, usage } = message.answer ?? {};
  const parts = [t("count-tokens", { count: whole(tokens?.length ?? 0) })];
  if (deadline) {
    parts.push(seconds(deadline.took_ms));
    if (deadline.asked_ms !== null)
      parts.push(t(deadline.met ? "promise-kept" : "promise-missed", { time: seconds(deadline.asked_ms) }));
    if (deadline.shortened) parts.push(t("shortened"));
  }
  const reused = usage?.prompt_tokens_details?.cached_tokens;
  if (reused) parts.push(t("reused", { count: whole(reused) }));
  const drafted = tokens?.filter((token) => !["model", "given", "cache"].includes(token.source)).length;
  if (drafted) parts.push(t("count-drafted", { count: whole(drafted) }));
  return parts.join(" · ");
}

function Tokens({ message, conversation }: Given): VNode {
  const tokens = message.answer?.tokens ?? [];
  const hasProbabilities = tokens.some((token) => token.logprob !== undefined);
  const [colours, setColours] = useState<Colours>("source");
  const [chosen, setChosen] = useState(-1);
  const present = [...new Set(tokens.map((token) => token.source))];
  return (
    <div class="tokens">
      {hasProbabilities && (
        <fieldset class="segments">
          <legend>{t("colour-by")}</legend>
          {(["source", "probability"] as const).map((each) => (
            <label key={each}>
              <input type="radio" name={`colours-${message.id}`} checked={colours === each} onChange={() => setColours(each)} />
              {t(`by-${each}`)}
            </label>
          ))}
        </fieldset>
      )}
      {colours === "source" && (
        <p class="legend">
          {present.map((each) => (
            <span key={each} class={`token from-${cssName(each)}`}>
              {sourceName(each)}
            </span>
          ))}
        </p>
      )}
      <p class="token-text">
        {tokens.slice(0, MOST_SHOWN).map((token, at) => (
          <button
            key={at}
            type="button"
            class={`token ${colours === "source" ? `from-${cssName(token.source)}` : likelihood(token)}`}
            title={titleOf(token)}
            aria-pressed={chosen === at}
            onClick={() => setChosen(chosen === at ? -1 : at)}
          >
            {token.text}
          </button>
        ))}
      </p>
      {tokens[chosen] && (
        <Alternatives
          token={tokens[chosen]}
          onChoose={(each) => goOn(conversation, message, [...tokens.slice(0, chosen), noteOf(each)])}
        />
      )}
    </div>
  );
}

function Alternatives({ token, onChoose }: { token: TokenNote; onChoose: (each: Alternative) => void }): VNode {
  return (
    <div class="alternatives">
      <p>{titleOf(token)}</p>
      {token.alternatives?.map((each) => (
        <button key={each[0]} type="button" onClick={() => onChoose(each)} title={t("go-on-from")}>
          <code>{JSON.stringify(each[1])}</code> {percent(each[2])}
        </button>
      ))}
    </div>
  );
}

function noteOf([id, text, logprob]: Alternative): TokenNote {
  return { id, text, source: "given", logprob };
}

function titleOf(token: TokenNote): string {
  const likely = token.logprob === undefined ? "" : `, ${percent(token.logprob)}`;
  return `${JSON.stringify(token.text)}: ${sourceName(token.source)}${likely}`;
}

function percent(logprob: number): string {
  return `${(100 * Math.exp(logprob)).toFixed(1)}%`;
}

function likelihood(token: TokenNote): string {
  if (token.logprob === undefined) return "";
  const p = Math.exp(token.logprob);
  return `likely-${p > 0.9 ? 4 : p > 0.6 ? 3 : p > 0.3 ? 2 : p > 0.1 ? 1 : 0}`;
}

function cssName(source: string): string {
  return source in SOURCES ? source : "other";
}
