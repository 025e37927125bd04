"""Decoder processes: the same pixels as here, and files that hurt them hurt nothing else."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.api import decoders
from service.api.decode_wire import BadReply, Fault, Job, receive_pixels
from service.api.decoders import DecoderLimits, DecoderPool
from service.api.images import ImageLimits, Upload
from service.app import create_app
from service.core.sizes import FixedSize, LongestEdge
from service.errors import InvalidField, NotReady, PerceptError, TooLarge, Unavailable
from service.settings import Settings
from tests.chaos.memory import children
from tests.support.pictures import disc, encode, gradient, task_files

IMAGES = ImageLimits(max_pixels=40_000_000, min_side=16, max_side=32_768)
SMALL = ImageLimits(max_pixels=1_000_000, min_side=16, max_side=4096)
PICTURE = encode(gradient(120, 90), "JPEG")
ROOT = Path(__file__).parents[2]
SIZES = (FixedSize(64, 64), LongestEdge(96, 8))


def limits(num_processes: int = 1, timeout_s: float = 60.0) -> DecoderLimits:
    return DecoderLimits.of(num_processes, timeout_s, IMAGES, 25_000_000)


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    running = DecoderPool(limits())
    yield running
    running.close()
    assert not processes()


def processes() -> list[int]:
    found = []
    for child in children(os.getpid()):
        with suppress(FileNotFoundError):
            if b"decode_worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


@pytest.mark.parametrize("size", SIZES)
def test_the_same_input_as_decoded_here(pool, size):
    for field, data in (("image", PICTURE), ("mask", encode(disc(120, 90)))):
        here = Upload(field, data, IMAGES).model_image(size)
        there = pool.upload(field, data, IMAGES).model_image(size)
        np.testing.assert_array_equal(there.values, here.values)
        assert (there.width, there.height) == (here.width, here.height) == (120, 90)


def test_the_same_pixels_as_decoded_here(pool):
    there, here = pool.upload("image", PICTURE, IMAGES), Upload("image", PICTURE, IMAGES)
    np.testing.assert_array_equal(there.rgb(), here.rgb())
    assert there.rgb().dtype == np.uint8
    np.testing.assert_array_equal(there.mask(), here.mask())
    assert there.mask().dtype == np.bool_


@pytest.mark.parametrize(
    "data",
    [b"", b"no picture", PICTURE[:300], encode(gradient(15, 40)), encode(gradient(3000, 20))],
)
def test_refusals_are_the_same_as_here(pool, data):
    narrow = ImageLimits(max_pixels=50_000, min_side=16, max_side=4096)
    said = []
    for upload in (Upload("frame1", data, narrow), pool.upload("frame1", data, narrow)):
        with pytest.raises(PerceptError) as caught:
            upload.rgb()
        said.append((type(caught.value), str(caught.value), caught.value.field, caught.value.limit))
    assert said[0] == said[1]
    (survivor,) = processes()
    pool.upload("image", PICTURE, IMAGES).rgb()
    assert processes() == [survivor]


def test_a_mask_of_one_value_is_refused(pool):
    blank = encode(np.zeros((40, 48), np.uint8))
    with pytest.raises(InvalidField, match="nothing"):
        pool.upload("mask", blank, IMAGES).model_image(SIZES[0])


def test_a_file_that_takes_too_long_is_given_up_and_its_process_replaced():
    """No machine decodes 40 megapixels in a millisecond."""
    pool = DecoderPool(limits(num_processes=2, timeout_s=0.001))
    slow = encode(np.zeros((5000, 8000), np.uint8))
    try:
        for _ in range(3):
            with pytest.raises(TooLarge, match="too long") as caught:
                pool.upload("frame2", slow, IMAGES).rgb()
            assert (caught.value.field, caught.value.limit) == ("frame2", "0.001 s")
            assert not processes()
        object.__setattr__(pool.limits, "timeout_s", 60.0)
        with ThreadPoolExecutor(2) as threads:  # both places are still there
            together = threading.Barrier(2)

            def decode(_: int) -> object:
                together.wait()
                return pool.upload("image", PICTURE, IMAGES).rgb().shape

            assert list(threads.map(decode, range(2))) == [(90, 120, 3)] * 2
    finally:
        pool.close()


def test_a_file_that_takes_too_much_memory_is_too_large():
    pool = DecoderPool(DecoderLimits(1, 60.0, memory_bytes=2**24))
    try:
        with pytest.raises(TooLarge, match="memory"):
            pool.upload("image", encode(np.zeros((5000, 8000), np.uint8)), IMAGES).rgb()
        assert pool.upload("image", PICTURE, IMAGES).rgb().shape == (90, 120, 3)
    finally:
        pool.close()


def test_a_process_that_something_else_ended_costs_no_call(pool):
    pool.upload("image", PICTURE, IMAGES).rgb()
    for number in (signal.SIGKILL, signal.SIGSEGV):
        (process,) = processes()
        os.kill(process, number)
        assert pool.upload("image", PICTURE, IMAGES).rgb().shape == (90, 120, 3)
        assert process not in processes()


def test_signals_for_the_server_are_not_for_its_decoders(pool):
    pool.upload("image", PICTURE, IMAGES).rgb()
    (process,) = processes()
    os.kill(process, signal.SIGTERM)
    os.kill(process, signal.SIGINT)
    pool.upload("image", PICTURE, IMAGES).rgb()
    assert processes() == [process]


def test_a_file_that_crashes_its_decoder_twice_is_refused(pool, monkeypatch):
    monkeypatch.setattr(decoders, "_COMMAND", ("sh", "-c", "printf R; exit 1"))
    with pytest.raises(InvalidField, match="cannot be decoded") as caught:
        pool.upload("mask", PICTURE, IMAGES).rgb()
    assert caught.value.field == "mask"


def test_a_process_that_has_computed_too_long_says_so(pool, monkeypatch):
    monkeypatch.setattr(decoders, "_COMMAND", ("sh", "-c", "kill -XCPU $$"))
    with pytest.raises(TooLarge, match="too long"):
        pool.upload("mask", PICTURE, IMAGES).rgb()


def test_no_process_to_be_had_is_no_fault_of_the_file(pool, monkeypatch):
    monkeypatch.setattr(decoders, "_COMMAND", ("/nowhere/python",))
    with pytest.raises(Unavailable) as caught:
        pool.upload("image", PICTURE, IMAGES).rgb()
    assert caught.value.retry_after_s == 1


def test_a_closed_pool_starts_nothing(pool):
    pool.upload("image", PICTURE, IMAGES).rgb()
    pool.close()
    assert not processes()
    with pytest.raises(NotReady):
        pool.upload("image", PICTURE, IMAGES).rgb()


def test_decoders_know_no_secrets(pool, monkeypatch):
    monkeypatch.setenv("PERCEPT_REDIS_URL", "redis://:hunter2@localhost")
    pool.upload("image", PICTURE, IMAGES).rgb()
    (process,) = processes()
    assert b"hunter2" not in Path(f"/proc/{process}/environ").read_bytes()
    open_files = [os.readlink(path) for path in Path(f"/proc/{process}/fd").iterdir()]
    assert sum(name.startswith("socket:") for name in open_files) <= 1 + _sockets_of_stderr()


def _sockets_of_stderr() -> int:
    return int(os.readlink("/proc/self/fd/2").startswith("socket:"))


def test_damaged_files_write_no_log(tmp_path):
    """Libtiff and Pillow have a line for each, in words that the sender chooses."""
    code = (
        "from tests.api.test_decoders import *\n"
        "pool = DecoderPool(limits())\n"
        "bad = encode(gradient(48, 40), 'TIFF', compression='tiff_deflate')\n"
        "for at in range(8, 300, 7):\n"
        "    with suppress(PerceptError):\n"
        "        pool.upload('image', bad[:at] + b'\\xff' * 4 + bad[at + 4:], IMAGES).rgb()\n"
        "pool.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT)
    assert done.stderr == b""


def test_decoders_end_with_their_server(tiny_repository):
    """However it ends: nothing is left to clean up."""
    code = (
        "from service.api.decoders import *\n"
        "from tests.api.test_decoders import *\n"
        "pool = DecoderPool(limits()); pool.upload('image', PICTURE, IMAGES).rgb()\n"
        "print(processes()[0], flush=True); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, cwd=ROOT)
    orphan = Path(f"/proc/{int(done.stdout)}/cmdline")
    for _ in range(6000):
        try:
            if b"decode_worker" not in orphan.read_bytes():
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        threading.Event().wait(0.01)
    raise AssertionError("a decoder outlived its server")


JOB = Job("rgb", "image", SMALL, None, 10, 1.0)
INPUT = Job("model_image", "image", SMALL, SIZES[0], 10, 1.0)


@pytest.mark.parametrize("job", [JOB, INPUT])
@pytest.mark.parametrize(
    "head",
    [
        {},
        [],
        {"shape": [10**6, 10**6, 3], "width": 10**6, "height": 10**6},
        {"shape": [2, 2, 4], "width": 2, "height": 2},
        {"shape": [2, 2, 3], "width": 3, "height": 2},
        {"shape": [-2, -2, 3], "width": -2, "height": -2},
        {"shape": [3, 65, 64], "width": 20, "height": 20},
        {"shape": "abc", "width": 2, "height": 2},
        {"shape": [2, 2, 3]},
        {"shape": [2, 2, 3], "width": 2, "height": 2},  # and then the pixels do not come
    ],
)
def test_a_decoder_is_believed_nothing(job, head):
    with pytest.raises(BadReply):
        reply(json.dumps(head).encode(), job)


@pytest.mark.parametrize("packed", [b"\xff\xff", b"{", b"x" * 70_000, b""])
def test_what_is_no_answer(packed):
    with pytest.raises(BadReply):
        reply(packed, JOB)


@pytest.mark.parametrize("name", [None, "RuntimeError", "SystemExit", "NotReady"])
def test_errors_that_no_file_can_cause_are_faults(name):
    with pytest.raises(Fault):
        reply(json.dumps({"error": name, "detail": "x"}).encode(), JOB)


def reply(packed: bytes, job: Job) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(struct.pack("!I", len(packed)) + packed)
        theirs.close()
        receive_pixels(ours, job)


async def test_the_service_goes_on_after_files_that_take_too_long(tiny_repository):
    settings = Settings(
        model_repo=tiny_repository, threads=1, decode_timeout_s=0.001, image_threads=1
    )
    app = create_app(settings)
    slow = encode(np.zeros((5000, 8000), np.uint8))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://percept") as client:
            for _ in range(3):
                files = {**task_files("flow"), "frame1": slow}
                answer = await client.post("/flow", files=files)
                assert answer.status_code == 413
                assert answer.json()["field"] == "frame1"
                assert answer.json()["limit"] == "0.001 s"
            assert (await client.get("/healthz")).status_code == 200
    assert not processes()
