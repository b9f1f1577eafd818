"""A replica in a child process, which speaks lines of JSON: ``python -m miaotui.cluster.replica_process`` and a text.

Owns the child's end of `process_channel`: calls come in by standard input, pieces go out by what was standard output
(anything else that is printed goes to standard error). Invariant: when its input ends, so does the process.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import aclosing
from typing import IO, Any

from miaotui.cluster.messages import Message
from miaotui.cluster.replica import Replica

LINE_BYTES = 1 << 26  # of one message


class ReplicaProcess:
    """The child's calls under way."""

    def __init__(self, replica: Replica, output: IO[bytes]) -> None:
        self._replica, self._output = replica, output
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def run(self, lines: asyncio.StreamReader) -> None:
        """Serve calls until the input ends."""
        while line := await lines.readline():
            call = json.loads(line)
            number = int(call["number"])
            if call["call"] == "leave":
                if number in self._tasks:
                    self._tasks[number].cancel()
                continue
            task = asyncio.create_task(self._serve(number, call))
            self._tasks[number] = task
            task.add_done_callback(lambda _, number=number: self._tasks.pop(number, None))  # type: ignore[misc]
        for task in tuple(self._tasks.values()):
            task.cancel()

    async def _serve(self, number: int, call: Message) -> None:
        kind = call["call"]
        if kind == "answer":
            async with aclosing(self._replica.answer(call["message"])) as pieces:
                async for piece in pieces:
                    self._write(number, piece)
        else:
            self._write(number, self._replica.describe() if kind == "describe" else self._replica.report())

    def _write(self, number: int, piece: Message) -> None:
        self._output.write(json.dumps({"number": number, "piece": piece}).encode() + b"\n")
        self._output.flush()


async def _main(specification: dict[str, Any], output: IO[bytes]) -> None:
    lines = asyncio.StreamReader(LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    replica = Replica.open(specification["name"], specification["model"], specification.get("options"))
    try:
        await ReplicaProcess(replica, output).run(lines)
    finally:
        replica.close()


def main() -> None:
    """Run the child."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    asyncio.run(_main(json.loads(sys.argv[1]), output))


if __name__ == "__main__":
    main()
