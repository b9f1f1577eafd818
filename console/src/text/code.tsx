/** A block of code with its language's colours and a button that copies it. */
import type { VNode } from "preact";
import { useState } from "preact/hooks";
import { t } from "../i18n";
import { copyText } from "../ui/copy";
import { useHighlighted } from "./highlight";

/** Code as it is written; colours where the language is known. */
export function CodeBlock({ text, language }: { text: string; language: string }): VNode {
  const [copied, setCopied] = useState(false);
  const content = useHighlighted(text, language);
  const copy = async (): Promise<void> => {
    setCopied(await copyText(text));
    setTimeout(() => setCopied(false), 1500);
  };
  return (
    <figure class="code">
      <figcaption>
        <span>{language}</span>
        <button type="button" class="quiet" onClick={() => void copy()}>
          {copied ? t("copied") : t("copy")}
        </button>
      </figcaption>
      <pre tabIndex={0} aria-label={t("code", { language: language || "text" })}>
        <code>{content}</code>
      </pre>
    </figure>
  );
}
