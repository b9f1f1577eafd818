"""Whole folders of tiny encoder-decoders, with tokenizers that are trained on a few sentences."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from tiny_seq2seq import VOCAB, tiny_folder

SENTENCES = [
    "The dog runs to the river and drinks water.",
    "Der Hund läuft zum Fluss und trinkt Wasser.",
    "A cat sleeps under the old table in the kitchen.",
    "Eine Katze schläft unter dem alten Tisch in der Küche.",
    "We translate short texts, and we write summaries of long ones.",
    "Wir übersetzen kurze Texte und fassen lange zusammen.",
]


def trained_spm(size: int, **options: Any) -> bytes:
    """A SentencePiece model trained on the sentences."""
    import sentencepiece  # noqa: PLC0415  (a test extra, slow to import)

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4),
        model_writer=written,
        vocab_size=size,
        model_type="unigram",
        minloglevel=2,
        **options,
    )
    return written.getvalue()


def marian_folder(folder: Path, *, languages: tuple[str, ...] = ()) -> Path:
    """Marian's files: two SentencePiece models, and one vocabulary with `languages`."""
    import sentencepiece  # noqa: PLC0415  (a test extra)

    tiny_folder(folder, "marian", generation={"max_length": 12, "bad_words_ids": [[VOCAB - 1]], "num_beams": 2})
    content = trained_spm(80)
    (folder / "source.spm").write_bytes(content)
    (folder / "target.spm").write_bytes(content)
    model = sentencepiece.SentencePieceProcessor(model_proto=content)
    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    pieces = [piece for piece in pieces if piece not in ("<s>", "</s>", "<unk>")]
    texts = ["</s>", "<unk>", *(f">>{code}<<" for code in languages), *pieces]
    texts += [f"filler{i}" for i in range(VOCAB - 1 - len(texts))]
    vocabulary = {text: i for i, text in enumerate([*texts, "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    settings = {"source_lang": "en", "target_lang": "de", "model_max_length": 64, "tokenizer_class": "MarianTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def unigram_folder(folder: Path, variant: str, codes: tuple[str, ...] = (), **generation: Any) -> Path:
    """A model with a ``tokenizer.json`` as T5's and NLLB's: Unigram pieces, then `codes` of languages."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors  # noqa: PLC0415

    from miaotui.text.seq2seq.sentencepiece_file import parse_sentencepiece  # noqa: PLC0415  (likewise)

    tiny_folder(folder, variant, generation={"max_length": 10, **generation})
    vocabulary = parse_sentencepiece(trained_spm(80), "made.spm")
    scores = vocabulary.numbers("scores").tolist()
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [pair for pair in zip(vocabulary.tokens, scores, strict=True) if not pair[0].startswith("<")]
    library = Tokenizer(models.Unigram(pieces, unk_id=2))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    library.add_special_tokens([AddedToken(text, special=True) for text in ("<pad>", "</s>", "<unk>", *codes)])
    library.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    library.save(str(folder / "tokenizer.json"))
    return folder
