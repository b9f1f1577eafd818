/** A question to an index: the answer as it comes, and its citations, each of which opens its passage. */
import type { VNode } from "preact";
import { useRef, useState } from "preact/hooks";
import { seconds, t, type TextName } from "../i18n";
import { eventsOf } from "../server/events";
import { request, requestJson, ServerError, streamError } from "../server/http";
import { describe } from "../ui/failures";
import { Passage } from "./passage";
import { Hits, type SearchHit } from "./search";

export interface Citation {
  number: number;
  id: string;
  title: string;
  source: string;
  quote: string;
}

interface Answer {
  object: "answer";
  text: string;
  how: string;
  found: boolean;
  supported: boolean;
  citations: Citation[];
  took_ms: number;
  shortened: boolean;
}

type Event = Answer | { object: "answer.piece"; text: string } | { object?: undefined; error: { message: string } };

const MOST_HITS = 10;
const HOW: Record<string, TextName> = {
  extractive: "how-extractive",
  selected: "how-selected",
  generated: "how-generated",
  graph: "how-graph",
};

/** The form, and what came of it. */
export function Ask({ index }: { index: string }): VNode {
  const [question, setQuestion] = useState("");
  const [coming, setComing] = useState("");
  const [answer, setAnswer] = useState<Answer | null>(null);
  const [problem, setProblem] = useState("");
  const [opened, setOpened] = useState<Citation | null>(null);
  const [hits, setHits] = useState<SearchHit[] | null>(null);
  const [asked, setAsked] = useState(index); // the index that answer and hits are of
  const running = useRef<AbortController | null>(null);
  /** Leave what was asked before; what it still brings is shown no more. */
  const begin = (): AbortSignal => {
    running.current?.abort();
    running.current = new AbortController();
    setAsked(index);
    setAnswer(null);
    setHits(null);
    setProblem("");
    setComing("");
    return running.current.signal;
  };
  const ask = async (event: SubmitEvent): Promise<void> => {
    event.preventDefault();
    const signal = begin();
    setComing("…");
    let text = "";
    try {
      const body = { index, question, stream: true, deadline_ms: 10_000 };
      const response = await request("v1/answer", { body, signal });
      let isWhole = false;
      for await (const each of eventsOf<Event>(response)) {
        if (signal.aborted) return;
        isWhole ||= each.object === "answer";
        if (each.object === "answer") setAnswer(each);
        else if (each.object === "answer.piece") setComing((text += each.text));
        else throw streamError(each.error);
      }
      if (!isWhole) throw new ServerError(0, { message: "the stream broke off" });
    } catch (error) {
      if (signal.aborted) return;
      setComing(text); // what came stays
      setProblem(describe(error));
    }
  };
  const search = async (): Promise<void> => {
    const signal = begin();
    try {
      const body = { query: question, limit: MOST_HITS, plain: true, explain: true };
      const path = `v1/indexes/${encodeURIComponent(index)}/search`;
      const { data } = await requestJson<{ data: SearchHit[] }>(path, { body, signal });
      if (!signal.aborted) setHits(data);
    } catch (error) {
      if (!signal.aborted) setProblem(describe(error));
    }
  };
  return (
    <section class="panel" aria-label={t("ask-documents")}>
      <h2>{t("ask-documents")}</h2>
      <form onSubmit={(event) => void ask(event)}>
        <label>
          {t("question")}
          <input value={question} required onInput={(event) => setQuestion(event.currentTarget.value)} />
        </label>
        <button type="submit" class="primary">
          {t("ask")}
        </button>{" "}
        <button type="button" disabled={!question.trim()} onClick={() => void search()}>
          {t("search")}
        </button>
      </form>
      <div aria-live="polite">
        {problem && <p class="problem">{problem}</p>}
        {!answer && coming && <p class="plain">{coming}</p>}
        {answer && <AnswerView answer={answer} onOpen={setOpened} />}
        {hits && <Hits hits={hits} onOpen={setOpened} />}
      </div>
      {opened && <Passage index={asked} citation={opened} onClose={() => setOpened(null)} />}
    </section>
  );
}

function AnswerView({ answer, onOpen }: { answer: Answer; onOpen: (citation: Citation) => void }): VNode {
  if (!answer.found) return <p class="hint">{t("not-in-documents")}</p>;
  return (
    <>
      <p class="plain answer-text">{withMarkers(answer, onOpen)}</p>
      {!answer.supported && <p class="problem">{t("unsupported")}</p>}
      <ol class="citations">
        {answer.citations.map((each) => (
          <li key={each.number} value={each.number}>
            <button type="button" class="quiet" onClick={() => onOpen(each)}>
              {each.title || each.id}
            </button>
            <q>{each.quote}</q>
          </li>
        ))}
      </ol>
      <p class="hint">
        {t("answered-by", { how: t(HOW[answer.how] ?? "how-none"), time: seconds(answer.took_ms) })} {answer.shortened && t("shortened")}
      </p>
    </>
  );
}

/** Return the text, with the numbers of its citations as buttons; other numbers in brackets stay text. */
function withMarkers(answer: Answer, onOpen: (citation: Citation) => void): (string | VNode)[] {
  return answer.text.split(/(\[\d+\])/).map((part, at) => {
    const cited = answer.citations.find((each) => part === `[${each.number}]`);
    if (!cited) return part;
    return (
      <button key={at} type="button" class="quiet marker" aria-label={t("open-citation", { number: cited.number })} onClick={() => onOpen(cited)}>
        {part}
      </button>
    );
  });
}
