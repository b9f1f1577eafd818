"""Prompt of rerankers that are decoders: a question, a document, and the place where "yes" or "no" comes.

Owns Qwen3-Reranker's text as its model card documents it. Knows no tokens. Invariant: only `prefix` and `suffix` hold
control tokens; a question, a document and an instruction are plain text.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RerankPrompt:
    """Parts of a prompt: ``prefix`` and ``suffix`` are tokenized with control tokens, `body` without."""

    prefix: str
    suffix: str
    instruction: str  # unless the caller gives one

    def body(self, query: str, document: str, instruction: str | None = None) -> str:
        """Return the text between prefix and suffix."""
        return f"<Instruct>: {instruction or self.instruction}\n<Query>: {query}\n<Document>: {document}"


QWEN3_RERANK_PROMPT = RerankPrompt(
    prefix=(
        "<|im_start|>system\n"
        "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
        'Note that the answer can only be "yes" or "no".<|im_end|>\n'
        "<|im_start|>user\n"
    ),
    suffix="<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    instruction="Given a web search query, retrieve relevant passages that answer the query",
)
