"""``miaotui dmlm``: train a masked language model, write with it, fill masks of a text, correct one.

Owns what is printed. Knows training and models by their public calls only. Invariants: what a run has learned is in its
checkpoint when the command ends, also by Ctrl-C; results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from miaotui.cli.options.dmlm import ACTIONS
from miaotui.cli.output.progress import ProgressBars
from miaotui.cli.output.terminal import printable
from miaotui.errors import RequestError

if TYPE_CHECKING:
    from miaotui.dmlm.train.recipe import TrainRecipe
    from miaotui.dmlm.train.trainer import Trainer

REPORT_S = 5.0  # seconds between lines of a run


def dmlm(parsed: argparse.Namespace) -> int:
    """Run one action and return the exit status."""
    action, *words = parsed.words
    actions: dict[str, Callable[[argparse.Namespace, list[str]], None]] = {
        "train": _train,
        "write": _write,
        "fill": _fill,
        "correct": _correct,
    }
    if action not in actions:
        raise RequestError(f"no action {action!r}. Actions: {', '.join(ACTIONS)}")
    actions[action](parsed, words)
    return 0


def _train(parsed: argparse.Namespace, words: list[str]) -> None:
    from miaotui.dmlm.train.bigram import bigram_nats
    from miaotui.dmlm.train.checkpoint import export, read_checkpoint, write_checkpoint
    from miaotui.dmlm.train.spans import SpanTrainer, export_spans
    from miaotui.dmlm.train.texts import SENTINELS, load_tokenizer_text, read_corpus
    from miaotui.dmlm.train.trainer import Trainer
    from miaotui.training.torch_loading import use_threads

    if not words:
        raise RequestError("say which texts: miaotui dmlm train TEXT... --out FOLDER")
    if parsed.out is None:
        raise RequestError("say where the model shall lie: miaotui dmlm train TEXT... --out FOLDER")
    folder = Path(parsed.out)
    kept = read_checkpoint(folder)
    pretrained = None if parsed.pretrained is None else read_checkpoint(Path(parsed.pretrained))
    if parsed.pretrained is not None and pretrained is None:
        raise RequestError(f"{parsed.pretrained} holds no run: name the --out folder of one")
    known = kept or pretrained
    recipe = _recipe(parsed, None if known is None else known.recipe)
    use_threads(parsed.threads)
    tokenizer = None if known is None else load_tokenizer_text(known.tokenizer)
    sentinels = SENTINELS if recipe.decoder_layers else ()
    corpus = read_corpus([Path(word) for word in words], recipe.vocabulary, recipe.length, tokenizer, sentinels)
    trainer = (SpanTrainer if recipe.decoder_layers else Trainer)(recipe, corpus, kept, pretrained)
    _say(
        f"{trainer.network.parameters:,} parameters, {len(corpus.trained):,} texts of {recipe.length} tokens to train "
        f"on, {len(corpus.held_out):,} held out; {recipe.masks} masks, {recipe.schedule} rates, from step "
        f"{trainer.step}"
    )
    try:
        _run(trainer, parsed.save_every, lambda: write_checkpoint(folder, trainer.checkpoint()))
    except KeyboardInterrupt:
        _say(f"stopped after step {trainer.step:,} of {recipe.steps:,}: the same command goes on from there")
        raise
    finally:
        write_checkpoint(folder, trainer.checkpoint())
        (export_spans if recipe.decoder_layers else export)(folder, recipe, corpus, trainer.weights())
    bound = trainer.bound()
    if recipe.decoder_layers:
        print(f"held-out loss: {bound:.4f} nats a token of masked spans")
        return
    bigram = bigram_nats(corpus)
    print(
        f"held-out bound: {bound:.4f} nats a token, perplexity at most {math.exp(bound):.2f}; "
        f"a bigram model of the same texts: {bigram:.4f} nats, perplexity {math.exp(bigram):.2f}"
    )


def _recipe(parsed: argparse.Namespace, kept: TrainRecipe | None) -> TrainRecipe:
    """Return the recipe of the command line; what it leaves out is the checkpoint's, or the default."""
    from miaotui.dmlm.train.recipe import TrainRecipe

    given = {each.name: getattr(parsed, each.name, None) for each in fields(TrainRecipe)}
    if kept is None and given["decoder_layers"]:  # T5's masks, where nothing else is asked for
        given |= {"masks": given["masks"] or "spans", "schedule": given["schedule"] or "bert"}
    return replace(kept or TrainRecipe(), **{name: value for name, value in given.items() if value is not None})


def _run(trainer: Trainer, save_every: int, save: Callable[[], None]) -> None:
    began_s = told_s = time.monotonic()
    first = trainer.step
    for progress in trainer.steps():
        if progress.step % save_every == 0:
            save()
        now_s = time.monotonic()
        if now_s - told_s >= REPORT_S or progress.step == trainer.recipe.steps:
            told_s = now_s
            rate = (progress.step - first) * trainer.recipe.batch * trainer.recipe.length / (now_s - began_s)
            _say(f"step {progress.step:,}: loss {progress.loss:.3f} of masked tokens, {rate:,.0f} tokens/s")


def _write(parsed: argparse.Namespace, words: list[str]) -> None:
    from miaotui.dmlm import load_masked
    from miaotui.dmlm.decoding.acceptance import Acceptance
    from miaotui.dmlm.decoding.decode import DecodeOptions

    if len(words) != 2:
        raise RequestError("say which model and what it continues: miaotui dmlm write FOLDER PROMPT")
    options = DecodeOptions(
        parsed.max_tokens,
        acceptance=Acceptance(threshold=parsed.threshold),
        temperature=parsed.temperature,
        seed=parsed.seed or 0,
    )
    with ProgressBars() as progress, load_masked(words[0], threads=parsed.threads, progress=progress) as model:
        progress.close()
        answer = model.generate(words[1], options)
    print(printable(answer.text))
    _say(f"{len(answer.token_ids)} tokens in {answer.passes} passes, {answer.seconds:.2f} s")


def _fill(parsed: argparse.Namespace, words: list[str]) -> None:
    from miaotui.encoder import load_encoder

    if len(words) != 2:
        raise RequestError("say which encoder and which text: miaotui dmlm fill MODEL TEXT")
    with ProgressBars() as progress, load_encoder(words[0], threads=parsed.threads, progress=progress) as encoder:
        progress.close()
        (masks,) = encoder.fill_mask(words[1], top_k=parsed.top)
    for number, fills in enumerate(masks, 1):
        for fill in fills:
            print(number, f"{fill.score:.4f}", printable(fill.token), printable(fill.text), sep="\t")


def _correct(parsed: argparse.Namespace, words: list[str]) -> None:
    from miaotui.llm import load
    from miaotui.tasks.correction.calls import corrected

    if len(words) != 2:
        raise RequestError("say which decoder and which text: miaotui dmlm correct MODEL TEXT")
    with ProgressBars() as progress, load(words[0], threads=parsed.threads, progress=progress) as llm:
        progress.close()
        (found,) = corrected(llm, [words[1]])
    if found.text is None:
        raise RequestError(found.error or "the text cannot be corrected")
    print(printable(found.text))
    for edit in found.edits:
        _say(f"{edit.start}-{edit.end}: {printable(edit.before)!r} -> {printable(edit.after)!r}, {edit.gain:.1f} nats")
    _say(f"{len(found.edits)} edits, {found.took_ms:,.0f} ms")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
