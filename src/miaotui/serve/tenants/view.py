"""View of a server's parts for one caller: models, adapters and shared files that its allowance names.

Owns which parts are narrowed. Knows no route: handlers use what they are given, so that none can forget a check.
Invariants: a view holds the server's own models, never copies; closing is the server's alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from miaotui.serve.adapters import AdaptedModel
from miaotui.serve.models import ServedModels
from miaotui.serve.tenants.allowance import Allowance

if TYPE_CHECKING:
    from miaotui.serve.services import Services


class AllowedModels(ServedModels):
    """Chat models that a caller may use; its adapters have the caller's own names."""

    def __init__(self, whole: ServedModels, allowance: Allowance) -> None:
        others = {kind: _only(names, allowance) for kind, names in whole.other_names.items()}
        super().__init__(
            (model for model in whole.values() if allowance.allows_model(model.name)),
            others["encoder"],
            others["encoder-decoder"],
            others["speech model"],
        )
        self.add_groups(group for group in whole.groups() if allowance.allows_model(group.name))
        self._whole, self._allowance = whole, allowance

    def adapters(self) -> dict[str, AdaptedModel]:
        """Return a model for each of the caller's adapters that is loaded now, by the caller's name."""
        loaded = self._whole.adapters()
        names = self._allowance.adapter_names(tuple(loaded))
        return {own: loaded[name].renamed(own) for own, name in names.items() if own not in self}


def narrowed(services: Services, allowance: Allowance) -> Services:
    """Return the parts of a server as far as a caller may use them."""
    allows = allowance.allows_model
    return replace(
        services,
        models=AllowedModels(services.models, allowance),
        encoders=services.encoders.only(allows),
        seq2seq=services.seq2seq.only(allows),
        speech=services.speech.only(allows),
        heads=services.heads.only(allows),
        graphs=services.graphs.only(allowance.graphs),
        recommenders=services.recommenders.only(allowance.recommenders),
    )


def _only(names: Callable[[], Iterable[str]], allowance: Allowance) -> Callable[[], Iterable[str]]:
    return lambda: [name for name in names() if allowance.allows_model(name)]
