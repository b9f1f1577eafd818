"""A replica in a child process, which speaks lines of JSON: ``python -m`` this module, and a text.

Owns the child's end of `process_channel`: calls come in by standard input, pieces go out by what was standard output
(anything else that is printed goes to standard error). Invariant: when its input ends, so does the process.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import IO, Any

from miaotui.cluster.kinds import open_replica
from miaotui.cluster.transport.lines import LINE_BYTES
from miaotui.cluster.transport.served_calls import ServedCalls


async def _main(specification: dict[str, Any], output: IO[bytes]) -> None:
    events = asyncio.get_running_loop()
    lines = asyncio.StreamReader(LINE_BYTES)
    await events.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    transport, protocol = await events.connect_write_pipe(asyncio.streams.FlowControlMixin, output)
    writer = asyncio.StreamWriter(transport, protocol, None, events)
    replica = open_replica(specification["name"], specification["model"], specification.get("options") or {})
    try:
        await ServedCalls(replica, writer).run(lines)
    finally:
        replica.close()


def main() -> None:
    """Run the child."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    asyncio.run(_main(json.loads(sys.argv[1]), output))


if __name__ == "__main__":
    main()
