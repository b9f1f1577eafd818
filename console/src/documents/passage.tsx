/** The document that a citation is from, with the very words marked and in sight. */
import type { VNode } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { t } from "../i18n";
import { requestJson } from "../server/http";
import { Dialog } from "../ui/dialog";
import { describe } from "../ui/failures";
import type { Citation } from "./ask";
import { findQuote } from "./quotes";

interface PassageBody {
  id: string;
  title: string;
  body: string;
}

interface Props {
  index: string;
  citation: Citation;
  onClose: () => void;
}

const AROUND = 30; // passages shown before and after the cited one

/** A dialog with the document around a citation. */
export function Passage({ index, citation, onClose }: Props): VNode {
  const [passages, setPassages] = useState<PassageBody[]>([]);
  const [problem, setProblem] = useState("");
  const marked = useRef<HTMLElement>(null);
  useEffect(() => {
    const id = citation.id.split("/").map(encodeURIComponent).join("/");
    requestJson<{ passages: PassageBody[] }>(`v1/indexes/${encodeURIComponent(index)}/documents/${id}`)
      .then((found) => setPassages(found.passages))
      .catch((error: unknown) => setProblem(describe(error)));
  }, [index, citation.id]);
  useEffect(() => marked.current?.scrollIntoView({ block: "center" }), [passages]);
  const at = passages.findIndex((each) => each.id === citation.id);
  const shown = passages.slice(Math.max(0, at - AROUND), at + AROUND + 1);
  return (
    <Dialog title={citation.title || citation.id} onClose={onClose}>
      {problem && <p class="problem">{problem}</p>}
      {shown.map((each) => (
        <p key={each.id} class="plain">
          {each.id === citation.id ? <Marked text={each.body} quote={citation.quote} place={marked} /> : each.body}
        </p>
      ))}
      {!problem && passages.length === 0 && <p class="hint">{t("loading")}</p>}
    </Dialog>
  );
}

function Marked({ text, quote, place }: { text: string; quote: string; place: { current: HTMLElement | null } }): VNode {
  const span = findQuote(text, quote) ?? { start: 0, end: text.length };
  return (
    <>
      {text.slice(0, span.start)}
      <mark ref={place}>{text.slice(span.start, span.end)}</mark>
      {text.slice(span.end)}
    </>
  );
}
