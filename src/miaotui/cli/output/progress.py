"""Progress bars for work that takes longer than a moment: downloads, the first compile, packing.

Owns how progress looks; the work calls the bars with its stage, how much is done and of how
much. In a terminal that is a bar, elsewhere one line per stage, and one for each tenth of a stage that tells
more in parentheses. Nothing is imported, and nothing appears, until there is something to show.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from miaotui.cli.output import messages
from miaotui.closing import Closing

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class ProgressBars(Closing):
    """A context in which work shows how far it is by calling this object; writes to stderr."""

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID | None] = {}
        self._tenths: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Show that `done` of `total` is done, in whatever the stage counts; None: unknown.

        A `stage` is a word of `messages.STAGES`, perhaps with more after it; others are shown too. What changes within
        a stage, such as a loss, stands in parentheses at its end.
        """
        name, _, more = stage.partition(" (")
        is_new = name not in self._tasks
        if is_new:
            self._tasks[name] = self._start(stage)
        task = self._tasks[name]
        if self._bars is not None and task is not None:
            self._bars.update(task, completed=done, total=total or None, description=_title(stage))
        elif more and total:
            tenth = 10 * done // total
            if not is_new and tenth > self._tenths.get(name, 0):
                _write(f"{_title(stage)} {done}/{total} ...")
            self._tenths[name] = max(tenth, self._tenths.get(name, 0))

    def close(self) -> None:
        """Take the bars off the screen."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        self._tasks.clear()
        self._tenths.clear()

    def _start(self, stage: str) -> TaskID | None:
        text = _title(stage)
        if not sys.stderr.isatty():
            _write(f"{text} ...")
            return None
        if self._bars is None:
            self._bars = _new_bars()
            self._bars.start()
        return self._bars.add_task(text, total=None)


def _write(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _title(stage: str) -> str:
    word, space, rest = stage.partition(" ")
    message = messages.STAGES.get(word)
    return message(rest=space + rest) if message else stage[:1].upper() + stage[1:]


def _new_bars() -> Bars:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
