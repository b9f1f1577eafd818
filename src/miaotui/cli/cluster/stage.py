"""``miaotui stage``: a process that computes a part of a model's layers for a server on another machine.

Owns the order of a start: model, secret, port. Knows neither layers nor steps.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from miaotui.backends.stages.link import read_secret
from miaotui.backends.stages.worker import StageModel, bind_stage, listen
from miaotui.cli.output import messages
from miaotui.cli.output.progress import ProgressBars
from miaotui.config import Settings
from miaotui.hub.resolve import resolve


def stage(parsed: argparse.Namespace) -> int:
    """Compute for one server after another until Ctrl-C."""
    secret = None if parsed.key_file is None else read_secret(Path(parsed.key_file))
    with bind_stage(parsed.host, parsed.port, secret) as listening:
        with ProgressBars() as progress:
            model = StageModel.of(resolve(parsed.words[0], progress=progress), parsed.threads)
        print(messages.STAGE_READY(place=f"{parsed.host}:{parsed.port}", model=parsed.words[0]), file=sys.stderr)
        listen(listening, secret, model, Settings.from_env())
    return 0
