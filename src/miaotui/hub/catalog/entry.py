"""A model with a name, as a value: where it comes from, its licence, and the sizes and digests that pin it.

Owns the forms of these facts. Knows no model and fetches nothing. Invariant: a file from a package index is pinned by
SHA-256, archive and file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from miaotui.hub.catalog.shapes import SHAPES, ModelShape


class Wheel(NamedTuple):
    """A wheel in a package index, pinned by version, size and SHA-256. ``tag``: Python, ABI and platform it is for."""

    name: str
    version: str
    size_bytes: int
    sha256: str
    tag: str = "py3-none-any"

    @property
    def filename(self) -> str:
        """Return its file name by the binary distribution format: ``some_name-1.0-py3-none-any.whl``."""
        return f"{re.sub(r'[-_.]+', '_', self.name).lower()}-{self.version}-{self.tag}.whl"


class WheelFile(NamedTuple):
    """A file made of ``pieces`` (a wheel, a path inside it) in this order, pinned like a wheel.

    ``outer.zip!/inner`` is a path inside an archive inside the wheel.
    """

    filename: str
    pieces: tuple[tuple[Wheel, str], ...]
    size_bytes: int
    sha256: str


class Licence(NamedTuple):
    """The terms of a model: a short name (SPDX where there is one), and where to read them.

    ``explicit``: the user must accept them, so only an explicit ``pull`` fetches the model.
    """

    name: str
    url: str
    explicit: bool = False


@dataclass(frozen=True)
class CatalogModel:
    """One model by name: from wheels (``files``, the model itself first), from a Hugging Face repository (``hub_id``),
    or from the first of these that can be had. ``modelscope_id`` is its id on ModelScope where that is another one.

    ``texts`` are small files, by name, that the wheels lack and the model's folder needs. ``companions`` are the
    models that an explicit ``pull`` fetches too. ``languages`` are those that the model's page names, the best first;
    ``family`` is the ``model_type`` of its ``config.json``. Both are empty for encoders. ``pair`` are the languages
    between which a translator translates.
    """

    name: str
    title: str
    parameters: int
    licence: Licence
    files: tuple[WheelFile, ...] = ()
    hub_id: str = ""
    modelscope_id: str = ""
    texts: Mapping[str, str] = field(default_factory=dict, hash=False)
    companions: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    family: str = ""
    pair: tuple[str, str] | None = None

    @property
    def shape(self) -> ModelShape | None:
        """Return the dimensions of a chat model; None for others."""
        return SHAPES.get(self.name)

    @property
    def is_folder(self) -> bool:
        """Return whether the model is the folder of its files, and not one GGUF file."""
        return not self.files[0].filename.endswith(".gguf")

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


APACHE = Licence("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")
MIT = Licence("MIT", "https://opensource.org/license/mit")
