"""A decoder process: `python -m service.api.decode_worker MEMORY_BYTES`, its socket as stdin.

It reads pictures that strangers sent, one at a time, and holds nothing that is worth stealing.
Started and ended by `service.api.decoders`.
"""

import gc
import logging
import math
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

from service.api.decode_wire import READY, Job, Pixels, receive_job, send_pixels, send_refusal
from service.api.images import Upload
from service.errors import PerceptError, TooLarge

_MAX_FILES = 32  # open at once; fonts, plug-ins and the like are loaded by then


def main() -> None:
    """Serve until the other end of stdin is closed."""
    _keep_libraries_quiet()
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the server, which lets work end
        signal.signal(number, signal.SIG_IGN)
    connection = socket.socket(fileno=0)
    _limit(int(sys.argv[1]))
    connection.sendall(READY)
    gc.freeze()  # what is there now stays: collecting the rest takes no time
    while _serve_one(connection):
        gc.collect()  # a decoder that waits holds nobody's picture


def _keep_libraries_quiet() -> None:
    """Log to stderr, and let nobody else: libtiff and Pillow have a line for each damaged file."""
    log = os.fdopen(os.dup(2), "w", buffering=1)
    logging.basicConfig(stream=log, level=logging.ERROR, format="%(levelname)s: %(message)s")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _serve_one(connection: socket.socket) -> bool:
    asked = receive_job(connection)
    if asked is None:
        return False
    job, data = asked
    _limit_cpu(job.cpu_s)
    _answer(connection, job, data)
    return True


def _answer(connection: socket.socket, job: Job, data: bytes) -> None:
    try:
        pixels = _decode(job, data)
    except PerceptError as error:
        send_refusal(connection, error)
    except MemoryError:
        limit = str(job.limits)
        refusal = TooLarge(f"{job.field} takes too much memory", field=job.field, limit=limit)
        send_refusal(connection, refusal)
    except Exception:
        logging.exception("A picture in %s met a fault", job.field)
        send_refusal(connection, None)
    else:
        send_pixels(connection, pixels)


def _decode(job: Job, data: bytes) -> Pixels:
    upload = Upload(job.field, data, job.limits)
    if job.size is not None:
        image = upload.model_image(job.size)
        return Pixels(image.values, image.width, image.height)
    values = upload.mask() if job.want == "mask" else upload.rgb()
    height, width = values.shape[:2]
    return Pixels(values, width, height)


def _limit(memory_bytes: int) -> None:
    """Bound what a file can make this process take; where a system knows no such limit, not."""
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, _MAX_FILES)
    with suppress(OSError):  # where memory runs out, the server is not the one to go
        Path("/proc/self/oom_score_adj").write_text("1000")
    with suppress(OSError):  # Linux alone says how much is mapped by now
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + memory_bytes)


def _limit_cpu(seconds: float) -> None:
    """End this process (SIGXCPU) when it has computed so long, should nobody else do it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _lower(kind: int, limit: int) -> None:
    with suppress(ValueError, OSError):
        resource.setrlimit(kind, (limit, limit))


if __name__ == "__main__":
    main()
