"""A way to a server that can be blocked, as a network between two hosts can.

``python -m tests.chaos.relay PORT TARGET`` passes bytes between the two ports. While
its process is frozen nothing comes through and no connection breaks; what was on its
way arrives late, when it goes on.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import override

from tests.servers import Server

TOP = Path(__file__).parents[2]


class Relay(Server):
    """The process that passes bytes on to a server; ``pause`` blocks the way."""

    def __init__(self, target: int) -> None:
        super().__init__()
        self._target = target

    @override
    def _command(self) -> Sequence[str | Path]:
        ports = str(self.port), str(self._target)
        return [sys.executable, "-m", "tests.chaos.relay", *ports]

    @override
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(TOP)}

    @override
    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    except OSError:
        pass  # one of the two is gone: so is the connection
    finally:
        sink.close()


async def _serve(port: int, target: int) -> None:
    async def connected(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.close()
            return
        there, back = _pass_on(reader, far_writer), _pass_on(far_reader, writer)
        await asyncio.gather(there, back)

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(*map(int, sys.argv[1:])))
