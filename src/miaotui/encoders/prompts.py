"""Prompts in front of texts: those that a model's files name, and E5's, which no file of an E5 model names.

Owns the names of a search's two sides and E5's prefixes. Knows no tokens. Invariant: a prompt that was named goes in
front of every text; the model's own default one only where a text does not begin with a prompt already. Source of E5's
prefixes: Wang et al., arXiv:2212.03533, section 3, and the model cards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from miaotui.engine.encoding.loaded import LoadedEncoder
from miaotui.errors import FieldError

# A search's two sides, in the words of Cohere, Jina, Voyage, NVIDIA and sentence-transformers.
QUERY_NAMES = frozenset({"query", "search_query", "retrieval.query", "retrieval_query"})
DOCUMENT_NAMES = frozenset(
    {"document", "passage", "search_document", "retrieval.passage", "retrieval.document", "retrieval_document"}
)
PLAIN_NAMES = frozenset({"classification", "clustering", "text-matching", "separation", "image"})

E5_PROMPTS: Mapping[str, str] = {"query": "query: ", "passage": "passage: "}
E5_DEFAULT = "query"  # for what is no search, by the model cards
_E5_NAME = re.compile(r"(^|[-_])e5([-_]|$)")
_OTHER_PROMPTS = re.compile(r"instruct|mistral")  # of E5's name, with prompts of another form


def is_e5(path: Path) -> bool:
    """Return whether a file or a folder, or the repository that it lies in, is named as E5 models with prefixes are."""
    names = [part.lower().removesuffix(".gguf") for part in path.parts[-4:]]
    return any(_E5_NAME.search(name) and not _OTHER_PROMPTS.search(name) for name in names)


def prompts_for(path: Path, prompts: Mapping[str, str], default: str | None) -> tuple[Mapping[str, str], str | None]:
    """Return a model's prompts by name and its default one, E5's where its files have none."""
    found = prompts or (E5_PROMPTS if is_e5(path) else prompts)
    if dict(found) == E5_PROMPTS and default is None:
        default = E5_DEFAULT
    return found, default


@dataclass(frozen=True)
class Prefix:
    """Text that goes in front of each input, ``unless`` it begins with one of these."""

    text: str = ""
    unless: tuple[str, ...] = ()

    def applies_to(self, text: str) -> bool:
        """Return whether the prefix goes in front of ``text``."""
        return not (self.unless and text.startswith(self.unless))

    def put(self, text: str) -> str:
        """Return ``text`` with the prefix in front."""
        return self.text + text if self.applies_to(text) else text


NO_PREFIX = Prefix()


def prefix_of(model: LoadedEncoder, prompt: str | None) -> Prefix:
    """Return what goes in front of inputs of this kind; None: the model's own default prompt, if it has one.

    A search's two sides have several names (`QUERY_NAMES`, `DOCUMENT_NAMES`); a model without a prompt for them takes
    their texts as they are. Raises `FieldError` for a name that the model does not know.
    """
    prompts = model.prompts
    if prompt is None:
        return Prefix(prompts.get(model.default_prompt or "", ""), tuple(filter(None, prompts.values())))
    if prompt in prompts:
        return Prefix(prompts[prompt])
    for names in (QUERY_NAMES, DOCUMENT_NAMES):
        if prompt in names:
            return Prefix(next((prompts[name] for name in sorted(names) if name in prompts), ""))
    if prompt in PLAIN_NAMES:
        return NO_PREFIX
    known = ", ".join(sorted({*prompts, "query", "document"}))
    raise FieldError("prompt", f"the model has no prompt {prompt[:64]!r}; it has: {known}")
