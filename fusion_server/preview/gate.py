"""Stands between a network and viser on loopback, and lets through what ``access`` admits. One thread, bounded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time

from fusion_server.preview.access import LARGEST_HEAD, Access

log = logging.getLogger(__name__)

_MOST_CONNECTIONS = 64  # at a time; a browser uses about six and then one
_HEAD_S = 10.0  # to say what one wants
_PAGE_S = 60.0  # to read an answer that is no stream
_IDLE_S = 90.0  # without a byte in either direction of a stream; websockets ping every 20 s
_PIECE = 65_536  # bytes relayed at a time
_SAY_EVERY_S = 10.0


class Gate:
    """Takes what comes to ``listener``, which is this one's from now on, for viser at ``127.0.0.1:inner``."""

    def __init__(self, listener: socket.socket, inner: int, access: Access):
        self._listener, self._inner, self._access = listener, inner, access
        self.refused = 0  # requests turned away
        self._unsaid, self._said_at = 0, -_SAY_EVERY_S
        self._open = 0
        self._loop = asyncio.new_event_loop()
        self._ended: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="preview gate", daemon=True)
        self._thread.start()
        self._ready.wait()

    def close(self) -> None:
        """End every connection and the thread; may be called twice."""
        if self._thread.is_alive() and self._ended is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            try:
                self._loop.run_until_complete(self._serve())
            finally:
                self._ready.set()

    async def _serve(self) -> None:
        self._ended = asyncio.Event()
        server = await asyncio.start_server(self._meet, sock=self._listener, limit=LARGEST_HEAD)
        self._ready.set()
        await self._ended.wait()
        server.close()
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection from its first byte to its last."""
        peer = str((writer.get_extra_info("peername") or ("?",))[0])
        self._open += 1
        try:
            if self._open <= _MOST_CONNECTIONS:
                await self._judge(reader, writer, peer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # it went away, or said nothing that ends
        finally:
            self._open -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _judge(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> None:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _HEAD_S)
        verdict = self._access.judge(head)
        if verdict.refused:
            self._note(peer, verdict.refused)
        if verdict.response:
            writer.write(verdict.response)
            await asyncio.wait_for(writer.drain(), _HEAD_S)
            return
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._inner, limit=_PIECE)
        try:
            inner_writer.write(verdict.request)
            if verdict.stream:
                await self._stream((reader, inner_writer), (inner_reader, writer))
            else:
                await asyncio.wait_for(_relay(inner_reader, writer), _PAGE_S)
        finally:
            inner_writer.close()
            with contextlib.suppress(OSError):
                await inner_writer.wait_closed()

    async def _stream(self, *ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        """Both directions until either ends."""
        tasks = [asyncio.ensure_future(_relay(reader, writer, _IDLE_S)) for reader, writer in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _note(self, peer: str, status: int) -> None:
        """Count a refusal and say so, at most every ten seconds."""
        self.refused += 1
        self._unsaid += 1
        now = time.monotonic()
        if now - self._said_at >= _SAY_EVERY_S:
            log.warning("preview: %d requests refused, the last from %s (%d)", self._unsaid, peer, status)
            self._unsaid, self._said_at = 0, now


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle_s: float | None = None) -> None:
    """Every byte until the end. Reading waits for writing, so that a slow peer fills no memory."""
    while data := await asyncio.wait_for(reader.read(_PIECE), idle_s):
        writer.write(data)
        await asyncio.wait_for(writer.drain(), idle_s)
