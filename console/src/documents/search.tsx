/** What a search found: each passage with the parts of its score, of the meaning and of each word. */
import type { VNode } from "preact";
import { t } from "../i18n";
import type { Citation } from "./ask";

interface Shares {
  meaning: number | null;
  words: number;
  terms: { term: string; share: number }[];
}

export interface SearchHit {
  id: string;
  title: string;
  source: string;
  body: string;
  score: number;
  shares: Shares;
}

const SHOWN_CHARACTERS = 240;
const MOST_TERMS = 8;

/** The hits of a search, best first. */
export function Hits({ hits, onOpen }: { hits: readonly SearchHit[]; onOpen: (citation: Citation) => void }): VNode {
  if (hits.length === 0) return <p class="hint">{t("nothing-found")}</p>;
  return (
    <ol class="citations hits">
      {hits.map((hit, at) => (
        <li key={hit.id}>
          <button
            type="button"
            class="quiet"
            onClick={() => onOpen({ number: at + 1, id: hit.id, title: hit.title, source: hit.source, quote: hit.body })}
          >
            {hit.title || hit.id}
          </button>{" "}
          <span class="hint">{t("score", { score: rounded(hit.score) })}</span>{" "}
          <q>{excerpt(hit)}</q>
          <SharesView shares={hit.shares} />
        </li>
      ))}
    </ol>
  );
}

/** Return the part of a long passage around the word that weighs most in it; words are compared as they begin. */
function excerpt({ body, shares }: SearchHit): string {
  if (body.length <= SHOWN_CHARACTERS) return body;
  const lower = body.toLowerCase();
  const place = [...shares.terms].sort((a, b) => b.share - a.share).map(({ term }) => lower.indexOf(term)).find((at) => at >= 0) ?? 0;
  const start = Math.max(0, Math.min(place - SHOWN_CHARACTERS / 4, body.length - SHOWN_CHARACTERS));
  const shown = body.slice(start, start + SHOWN_CHARACTERS);
  return `${start > 0 ? "…" : ""}${shown}${start + SHOWN_CHARACTERS < body.length ? "…" : ""}`;
}

/** A score's parts as named meters; the longest is the largest part. */
function SharesView({ shares }: { shares: Shares }): VNode {
  const parts = shares.terms.slice(0, MOST_TERMS).map(({ term, share }) => ({ name: term, share }));
  if (shares.meaning !== null) parts.unshift({ name: t("meaning"), share: shares.meaning });
  const most = Math.max(...parts.map((each) => each.share), 1e-9);
  return (
    <ul class="shares" aria-label={t("parts-of-score")}>
      {parts.map(({ name, share }) => (
        <li key={name}>
          <meter min={0} max={most} value={Math.max(share, 0)} aria-label={name} /> {name} {rounded(share)}
        </li>
      ))}
    </ul>
  );
}

function rounded(value: number): string {
  return String(Math.round(value * 1000) / 1000);
}
