"""Bytes to clean text: detect the encoding, undo mojibake, normalise Unicode.

Owns decoding and repair. Knows nothing of formats. Invariant: the result is valid Unicode in NFC without control
characters, whatever the bytes were; nothing readable is lost.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

from miaotui.libraries import need

SAMPLE_BYTES = 262_144
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\ufffe\uffff\ud800-\udfff]")
_WESTERN = frozenset("ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜàáâãäåæçèéêëìíîïñòóôõöøùúûüßœŒ€£§°²³µ·«»¿¡„“”‚‘’–—…™©®½¼\u00a0")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def encoding_of(sample: bytes) -> str:
    """Return the encoding of a text that begins with ``sample``: what its mark says, UTF-8 if it is that, else the
    likeliest.
    """
    for mark, name in _MARKS:
        if sample.startswith(mark):
            return name
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(sample)
    except UnicodeDecodeError:
        return _likeliest(sample)
    return "utf-8"


def decoded(data: bytes) -> str:
    """Return the text of ``data``, repaired."""
    return repaired(data.decode(encoding_of(data[:SAMPLE_BYTES]), errors="replace"))


def repaired(text: str) -> str:
    """Return ``text`` with mojibake undone, control characters removed, in NFC, with plain line ends."""
    if not text.isascii():
        text = need("ftfy").fix_encoding(text)
        text = unicodedata.normalize("NFC", text)
    return _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def is_binary(sample: bytes) -> bool:
    """Return whether ``sample`` is no text in any common encoding."""
    if any(sample.startswith(mark) for mark, _ in _MARKS):
        return False
    return b"\0" in sample


def _likeliest(sample: bytes) -> str:
    """Return Windows-1252 for mostly plain letters with Western accents, GB 18030 for mostly common Chinese; detectors
    confuse both with others, above all in short texts. Otherwise return the detector's choice.
    """
    western = sample.decode("cp1252", "replace")
    accents = [char for char in western if not char.isascii()]
    if sum(map(_is_latin, western)) > len(accents) and _WESTERN.issuperset(accents):
        return "cp1252"
    try:
        text = codecs.getincrementaldecoder("gb18030")().decode(sample)
    except UnicodeDecodeError:
        text = ""
    other = [char for char in text if not char.isascii()]
    common = sum("\u4e00" <= char <= "\u9fa5" or char in "，。！？；：“”、《》（）" for char in other)
    if other and common >= 0.95 * len(other) and len(other) >= 2 * text.count("?"):
        return "gb18030"
    best = need("charset_normalizer").from_bytes(sample[:65_536]).best()
    return best.encoding if best is not None else "cp1252"


def _is_latin(char: str) -> bool:
    return char.isascii() and char.isalpha()
