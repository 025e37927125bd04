"""A TCP proxy that breaks what goes through it: resets connections, holds bytes, delays them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_CHUNK = 1 << 16
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time at all


class FaultyProxy:
    """Between the gateway and one server; in the running event loop.

    `num_connected` counts the connections that reached the server, `num_reset` those broken off;
    `delay_s` holds every piece of what is sent, either way, for so long.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._gates = [_open_gate()]
        self._writers: set[asyncio.StreamWriter] = set()
        self._served: set[asyncio.Task[None]] = set()
        self._port = 0
        self._connected = asyncio.Condition()
        self.num_connected = 0
        self.delay_s = 0.0
        self.num_reset = 0

    @property
    def url(self) -> str:
        """ "address:port" to connect to."""
        return f"127.0.0.1:{self._port}"

    def reset(self) -> None:
        """Break every connection off with a RST, as a crashed router does; new ones are let in."""
        for writer in self._writers:
            _reset(writer)
        self.num_reset += len(self._writers)

    async def connected(self, before: int) -> None:
        """Return when `num_connected` is above `before`."""
        async with self._connected:
            await self._connected.wait_for(lambda: self.num_connected > before)

    def stall(self) -> None:
        """Let nothing through from now on; connections stay open."""
        self._gates[-1].clear()

    def resume(self) -> None:
        """Send on what was held."""
        self._gates[-1].set()

    def forget(self) -> None:
        """Let nothing through on the present connections ever again, as after a lost route."""
        self.stall()
        self._gates.append(_open_gate())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either end closes it."""
        task = asyncio.current_task()
        assert task is not None
        self._served.add(task)
        ends = {writer}
        self._writers.add(writer)
        try:
            try:
                there, back = await asyncio.open_connection(*self._target)
            except OSError:  # nobody listens: neither do we
                _reset(writer)
                return
            ends.add(back)
            async with self._connected:
                self.num_connected += 1
                self._connected.notify_all()
            self._writers.add(back)
            gate = self._gates[-1]
            ways = [self._carry(reader, back, gate), self._carry(there, writer, gate)]
            tasks = [asyncio.create_task(way) for way in ways]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in tasks:
                    way.cancel()
                await asyncio.wait(tasks)
        finally:
            self._writers -= ends
            self._served.discard(task)
            for end in ends:
                end.close()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                await gate.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()

    async def open(self) -> asyncio.Server:
        """Listen on a free port."""
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        return server

    async def close(self) -> None:
        """End what is still carried."""
        self.reset()
        for gate in self._gates:
            gate.set()
        if self._served:
            await asyncio.wait(self._served)


def _open_gate() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


def _reset(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket | None = writer.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):  # it is closed already
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()


@asynccontextmanager
async def faulty_proxy(url: str) -> AsyncIterator[FaultyProxy]:
    """A proxy before the server at `url` ("address:port")."""
    host, _, port = url.rpartition(":")
    proxy = FaultyProxy(host, int(port))
    server = await proxy.open()
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
