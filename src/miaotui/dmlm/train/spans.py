"""Training of an encoder-decoder on masked spans: the encoder reads what is left, the decoder writes what is missing.

Owns batches of span examples and their loss. The loop, the optimizer and checkpoints are `Trainer`'s. Invariant: every
masked token is written once, after the sentinel of its span.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from miaotui.dmlm.masks.batch import Bools
from miaotui.dmlm.masks.masking import MaskedBatch, Masking
from miaotui.dmlm.masks.rules import RULES
from miaotui.dmlm.masks.schedule import schedule_named
from miaotui.dmlm.masks.sentinels import SpanExample, span_example
from miaotui.dmlm.train.recipe import TrainRecipe
from miaotui.dmlm.train.span_network import BUCKETS, EPS, FARTHEST, SpanNetwork
from miaotui.dmlm.train.texts import END, PAD, SENTINELS, SPECIALS, TextCorpus
from miaotui.dmlm.train.trainer import Trainer
from miaotui.libraries import need
from miaotui.training.checkpoint import Arrays
from miaotui.training.export import TrainedVocabulary, write_trained
from miaotui.training.noise import Ints

PAD_ID, END_ID = SPECIALS.index(PAD), SPECIALS.index(END)
SENTINEL_IDS = tuple(range(len(SPECIALS), len(SPECIALS) + len(SENTINELS)))
_HELD_OUT_SEED = 1 << 40


class SpanTrainer(Trainer):
    """One run of an encoder-decoder (see `Trainer`)."""

    def _make_network(self) -> SpanNetwork:
        return SpanNetwork(self.torch, self.recipe, self.corpus.vocab_size)

    def bound(self, draws: int = 4, most_texts: int = 512) -> float:
        """Return the held-out loss in nats a token of what the decoder writes: span masks at 15%, equal in all runs.

        It bounds nothing: what is masked is restored from left to right, what is not is given.
        """
        masking = Masking(
            self.corpus.mask_id, self.corpus.vocab_size, RULES["spans"], schedule_named("bert"), _HELD_OUT_SEED
        )
        total = count = 0.0
        with self.torch.no_grad():
            for draw in range(draws):
                for batch in self.corpus.batches(self.corpus.held_out[:most_texts], self.recipe.batch):
                    losses, _ = self._losses(batch.tokens, masking.masked(batch, draw))
                    total, count = total + float(losses.sum()), count + len(losses)
        return total / max(count, 1)

    def _losses(self, tokens: Ints, masked: MaskedBatch) -> tuple[Any, tuple[Ints, Ints]]:
        """Return the loss of each target token, and the text and position that it belongs to."""
        torch, made, texts, places = self.torch, list[SpanExample](), list[int](), list[int]()
        for number, (text, chosen) in enumerate(zip(tokens, masked.chosen, strict=True)):
            some = first_runs(chosen, len(SENTINEL_IDS))
            if some.any():
                made.append(span_example(text.tolist(), some, SENTINEL_IDS, END_ID))
                own = target_places(some)
                texts += [number] * len(own)
                places += own
        if not made:
            return torch.zeros(0, requires_grad=True), (np.zeros(0, np.int64), np.zeros(0, np.int64))
        source, is_source = padded([each.source for each in made])
        target, is_target = padded([each.target for each in made])
        shifted = np.concatenate([np.full((len(target), 1), PAD_ID), target[:, :-1]], axis=1)
        given = (torch.from_numpy(each) for each in (source, shifted, is_source))
        logits = self.network.logits(*given)[torch.from_numpy(is_target)]
        wanted = torch.from_numpy(target[is_target])
        losses = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
        return losses, (np.array(texts), np.array(places))


def first_runs(chosen: Bools, count: int) -> Bools:
    """Return the masks ``[n]`` of the first ``count`` runs alone."""
    begins = chosen & ~np.concatenate([[False], chosen[:-1]])
    kept: Bools = chosen & (np.cumsum(begins) <= count)
    return kept


def target_places(chosen: Bools) -> list[int]:
    """Return for each target token its position in the text: a sentinel's is that of its span, the end's the last."""
    found: list[int] = []
    before = False
    for place, is_masked in enumerate(chosen.tolist()):
        if is_masked:
            found += [place] if before else [place, place]
        before = is_masked
    return [*found, found[-1]]


def padded(rows: Sequence[Sequence[int]]) -> tuple[Ints, Bools]:
    """Return rows as one array ``[B, n]``, and where they are."""
    width = max(map(len, rows))
    values = np.full((len(rows), width), PAD_ID, np.int64)
    inside = np.zeros((len(rows), width), bool)
    for row, each in enumerate(rows):
        values[row, : len(each)], inside[row, : len(each)] = each, True
    return values, inside


def export_spans(folder: Path, recipe: TrainRecipe, corpus: TextCorpus, weights: Arrays) -> None:
    """Write ``config.json``, ``model.safetensors`` and the tokenizer, as `miaotui.load_seq2seq` reads them."""
    config = {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "vocab_size": corpus.vocab_size,
        "d_model": recipe.width,
        "d_kv": recipe.head_dim,
        "d_ff": recipe.ffn,
        "num_layers": recipe.layers,
        "num_decoder_layers": recipe.decoder_layers,
        "num_heads": recipe.heads,
        "relative_attention_num_buckets": BUCKETS,
        "relative_attention_max_distance": FARTHEST,
        "layer_norm_epsilon": EPS,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": True,
        "is_encoder_decoder": True,
        "n_positions": 4 * recipe.length,
        "pad_token_id": PAD_ID,
        "eos_token_id": END_ID,
        "decoder_start_token_id": PAD_ID,
    }
    library = need("tokenizers")
    tokenizer = library.Tokenizer.from_str(corpus.tokenizer.to_str())
    end = library.processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, END_ID)])
    tokenizer.post_processor = end  # a source ends as those that were trained on
    names = {"eos_token": END, "pad_token": PAD}
    write_trained(folder, config, TrainedVocabulary(tokenizer.to_str(), names, END_ID), weights)
