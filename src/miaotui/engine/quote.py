"""The prediction for a request that is not run: how long it would take beside all that runs now.

Owns nothing; asks the loop's book of promises. Knows neither text nor HTTP. Invariant: the engine's state is the same
afterwards, and the numbers are those that `EngineLoop.submit` would promise at this moment.
"""

from __future__ import annotations

from collections.abc import Sequence

from miaotui.backends.backend import require
from miaotui.engine.model_loop import ModelLoop
from miaotui.engine.request import RequestOptions
from miaotui.schedule.promises.admission import Quote
from miaotui.types import SamplingParams


def quote(loop: ModelLoop, prompt: Sequence[int], params: SamplingParams, options: RequestOptions) -> Quote:
    """Return the prediction for a request. Raises what `Engine.prepare` raises; `RequestError` if none can be made."""
    require(loop.engine.backend, "promises")
    loop.calibrate()
    assert loop.promises is not None, "calibrate makes them"
    request = loop.engine.prepare(prompt, params, options.namespace, options.constraint, options.begun)
    request.adapter = loop.adapters.number_of(options.adapter)
    request.follow(options)
    return loop.promises.quote(request, is_length_named=params.max_tokens is not None)
