"""Decoder processes: what strangers send is decoded in them, within a time and a memory limit.

A thread that decodes cannot be ended, a process can: a file that takes too long, takes too much or
crashes its decoder costs its own request and a new process, and nobody else anything.
"""

import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from service.api.decode_wire import (
    READY,
    BadReply,
    Fault,
    Job,
    Pixels,
    Want,
    receive_bytes,
    receive_pixels,
    send_job,
)
from service.api.images import FORMATS, ImageLimits, ModelImage, Upload
from service.core.sizes import InputSize
from service.errors import InvalidField, NotReady, PerceptError, TooLarge, Unavailable

_log = logging.getLogger(__name__)

_COMMAND = (sys.executable, "-P", "-W", "ignore", "-m", "service.api.decode_worker")
_START_S = 60.0  # for a process to be ready, however busy the machine
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")  # and no secrets
# Pixels of a 1080p picture stay with the process from one to the next; larger ones are given back.
# Without it glibc returns and fetches every page anew: 17 ms, not 8, for a 1080p JPEG at full size.
_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(16 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(32 * 2**20),
}
_TOO_LONG = -signal.SIGXCPU  # how a process ends that has computed beyond its limit


@dataclass(frozen=True)
class DecoderLimits:
    """How many processes decode, and what one file may take of one."""

    num_processes: int
    timeout_s: float
    memory_bytes: int

    @classmethod
    def of(
        cls, num_processes: int, timeout_s: float, images: ImageLimits, max_upload_bytes: int
    ) -> "DecoderLimits":
        """Return limits with memory enough for what the pixel and byte limits let in.

        WebP with transparency takes the most that was measured: 28 bytes a pixel.
        """
        memory_bytes = 32 * images.max_pixels + 4 * max_upload_bytes + 2**26
        return cls(num_processes, timeout_s, memory_bytes)


@dataclass(frozen=True)
class IsolatedUpload(Upload):
    """An upload whose pixels are decoded in another process; raises the errors of the table."""

    pool: "DecoderPool"

    def model_image(self, size: InputSize) -> ModelImage:
        """Decode and shrink to a model's input; raises InvalidField for a mask of one value."""
        pixels = self._decode("model_image", size)
        return ModelImage(pixels.values, pixels.width, pixels.height)

    def rgb(self) -> UInt8[np.ndarray, "h w 3"]:
        """Decode to upright RGB at full size; transparency is laid on white."""
        return self._decode("rgb").values

    def mask(self) -> Bool[np.ndarray, "h w"]:
        """Decode to a mask at full size: True where the value is above half."""
        return self._decode("mask").values

    def _decode(self, want: Want, size: InputSize | None = None) -> Pixels:
        timeout_s = self.pool.limits.timeout_s
        job = Job(want, self.field, self.limits, size, len(self.data), timeout_s)
        return self.pool.decode(job, self.data)


class DecoderPool:
    """A few decoder processes, started when they are needed and replaced when they end.

    `decode` may be called from any thread, and waits for a process that is free.
    """

    def __init__(self, limits: DecoderLimits) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._closed = False
        self._decoders: set[_Decoder] = set()
        # The last one used first: as few processes as it takes.
        self._places: queue.LifoQueue[_Decoder | None] = queue.LifoQueue()
        for _ in range(limits.num_processes):
            self._places.put(None)

    def upload(self, field: str, data: bytes, limits: ImageLimits) -> Upload:
        """Return an upload that is decoded here."""
        return IsolatedUpload(field, data, limits, self)

    def warm_up(self) -> None:
        """Start a process, and do not wait for it."""
        decoder = self._places.get()
        try:
            decoder = self._usable(decoder)
        finally:
            self._places.put(decoder)

    def decode(self, job: Job, data: bytes) -> Pixels:
        """Decode a file; raises the errors of the table."""
        decoder = self._places.get()
        try:
            # Twice: something else may have ended a process, and no innocent call is to pay.
            for _ in range(2):
                decoder = self._usable(decoder)
                try:
                    return decoder.decode(job, data, self.limits.timeout_s)
                except TimeoutError as error:
                    raise _too_slow(job) from error
                except (BadReply, OSError) as error:
                    if decoder.end() == _TOO_LONG:
                        raise _too_slow(job) from error
                    _log.warning("A decoder ended over a file in %s", job.field)
            raise InvalidField(
                f"{job.field} cannot be decoded", field=job.field, limit=f"a whole {FORMATS}"
            )
        finally:
            if decoder is not None and not decoder.is_idle:
                self._forget(decoder)
            self._places.put(decoder)

    def close(self) -> None:
        """End every process, whatever it does; who waits for one gets NotReady."""
        with self._lock:
            self._closed = True
        for decoder in tuple(self._decoders):
            self._forget(decoder)

    def _usable(self, decoder: "_Decoder | None") -> "_Decoder":
        if decoder is not None:
            if decoder.is_idle and decoder.lives:
                return decoder
            self._forget(decoder)
        with self._lock:
            if self._closed:
                raise NotReady("The server is stopping", retry_after_s=1)
            try:
                decoder = _Decoder(self.limits.memory_bytes)
            except OSError as error:
                raise Unavailable("No decoder can be started", retry_after_s=1) from error
            self._decoders.add(decoder)
        return decoder

    def _forget(self, decoder: "_Decoder") -> None:
        decoder.end()
        self._decoders.discard(decoder)


def _too_slow(job: Job) -> TooLarge:
    return TooLarge(
        f"{job.field} takes too long to decode", field=job.field, limit=f"{job.cpu_s:g} s"
    )


class _Decoder:
    """One process and this end of its socket; `is_idle` while it may be asked. Mutable."""

    def __init__(self, memory_bytes: int) -> None:
        self._connection, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own words alone
                    (*_COMMAND, str(memory_bytes)),
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=_environment(),
                    cwd="/",
                )
            except OSError:
                self._connection.close()
                raise
        self._started = False
        self.is_idle = True

    @property
    def lives(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def decode(self, job: Job, data: bytes, timeout_s: float) -> Pixels:
        """Decode a file; raises TimeoutError, BadReply or OSError, and is of no more use then."""
        self.is_idle = False
        self._wait_until_started()
        connection = _UntilDeadline(self._connection, timeout_s)
        send_job(connection, job, data)
        try:
            pixels = receive_pixels(connection, job)
        except (PerceptError, Fault):
            self.is_idle = True
            raise
        self.is_idle = True
        return pixels

    def end(self) -> int:
        """Kill the process if it lives; return its exit status, negative for a signal."""
        self.is_idle = False
        self._process.kill()
        status = self._process.wait()
        self._connection.close()
        return status

    def _wait_until_started(self) -> None:
        if not self._started:
            try:
                receive_bytes(_UntilDeadline(self._connection, _START_S), len(READY))
            except TimeoutError as error:
                raise Unavailable("No decoder has started in time", retry_after_s=1) from error
            self._started = True


class _UntilDeadline:
    """A connection whose every operation ends at one moment, with TimeoutError."""

    def __init__(self, connection: socket.socket, timeout_s: float) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + timeout_s

    def sendall(self, data: bytes | memoryview, /) -> None:
        """Send everything."""
        self._set_timeout()
        self._connection.sendall(data)

    def recv_into(self, buffer: memoryview, /) -> int:
        """Wait for some bytes; 0 when the other side is gone."""
        self._set_timeout()
        return self._connection.recv_into(buffer)

    def _set_timeout(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)


def _environment() -> dict[str, str]:
    """What a decoder has to know: where code is, and of no secret."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**kept, **one_thread, **_ALLOCATOR, "PYTHONPATH": path}
