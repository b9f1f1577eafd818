"""``python -m miaotui.speculation.train``: train a draft head for a model."""

from __future__ import annotations

from miaotui.backends.options import EngineOptions
from miaotui.config import Settings
from miaotui.engine.loaded_model import LoadedModel
from miaotui.hub.resolve import resolve
from miaotui.runtime import load_model
from miaotui.speculation.train.trainer import main


def load(model: str, options: EngineOptions, settings: Settings) -> LoadedModel:
    """Load a model by catalog name, file or folder."""
    return load_model(resolve(model, settings=settings), options, settings)


if __name__ == "__main__":
    main(load)
