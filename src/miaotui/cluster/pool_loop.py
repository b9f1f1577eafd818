"""A pool in the place of an engine: the loop over which `serve` and `LLM` use a model that runs elsewhere.

Owns the reading of what belongs to the text of a model, here where the weights are not loaded. Invariant: the digest of
the files that are read here is what replicas must have.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from miaotui.backends.build import reference_sampling
from miaotui.cluster.channel import Members
from miaotui.cluster.messages import VERSION, Message
from miaotui.cluster.pool import Pool
from miaotui.engine.preparation import Preparation
from miaotui.engine.remote.loop import RemoteLoop, RemoteModel
from miaotui.hub.digest import model_digest
from miaotui.hub.resolve import resolve
from miaotui.model.reading import files
from miaotui.text.chat import ChatEncoder
from miaotui.text.load import load_chat_template, load_tokenizer


def expected_of(path: Path, context: int | None = None) -> Message:
    """Return what every replica of the model at ``path`` has to be, see `admissible`."""
    wanted: Message = {"protocol": VERSION, "miaotui": version("miaotui"), "digest": model_digest(path)}
    return wanted if context is None else {**wanted, "context": context}


def open_pool(name: str, model: str, members: Members, context: int | None = None) -> tuple[Pool, RemoteLoop]:
    """Open the text of a model, and a pool of replicas of it. Raises a `MiaotuiError`.

    ``context`` is what replicas were told to hold, in tokens; None: what the model holds.
    """
    path = Path(resolve(model))
    with files.open_model(path) as opened:
        config = opened.config
        tokenizer = load_tokenizer(opened.metadata, opened.folder)
        template = load_chat_template(opened.metadata, opened.folder)
    holds = min(context or config.context_length, config.context_length)
    expected = expected_of(path, context)
    preparation = Preparation(holds, config.vocab_size, tokenizer, reference_sampling())
    remote = RemoteModel(path, expected["digest"], config, tokenizer, ChatEncoder(template, tokenizer), holds)
    pool = Pool(name, members, expected)
    loop = RemoteLoop(remote, preparation, pool)
    pool.loop = loop
    return pool, loop
