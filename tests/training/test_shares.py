"""Several sources of one task: their shares, their own steps, and where they lie."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path

import pytest
import torch

from tests.training.test_stream import equal, samples
from training.data import shares
from training.data.augment import AugmentConfig
from training.data.mixture import PoolConfig, Stream
from training.data.sample import Batch, DataError, DepthBatch, Sample
from training.data.shares import (
    PROCEDURAL,
    MixedStream,
    SourceShare,
    StreamConfig,
    open_stream,
    read_roots,
)
from training.data.stream import LoaderConfig, reading

CPU = torch.device("cpu")


@pytest.fixture
def workers() -> Iterator[Executor]:
    with reading(LoaderConfig(workers=3)) as pool:
        yield pool


class Counted:
    """A stream that says who was asked for what."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[int] = []
        self.expected: list[int] = []

    def batch(self, step: int) -> Batch:
        self.asked.append(step)
        depth = torch.full((1, 1, 1, 1), float(step))
        return DepthBatch(torch.zeros(1, 3, 1, 1), depth)

    def expect(self, steps: Sequence[int]) -> None:
        self.expected = list(steps)


def test_sources_have_their_share_and_count_their_own_steps():
    parts = [Counted("a"), Counted("b"), Counted("c")]
    mixed = MixedStream("depth", 1, parts, [0.9, 0.07, 0.03])
    for step in range(300):
        mixed.batch(step)
    assert [len(part.asked) for part in parts] == [270, 21, 9]
    assert all(part.asked == list(range(len(part.asked))) for part in parts)
    again = [Counted("a"), Counted("b"), Counted("c")]
    resumed = MixedStream("depth", 1, again, [0.9, 0.07, 0.03])
    for step in range(150, 160):
        resumed.batch(step)
    assert all(
        set(later.asked) <= set(part.asked) for later, part in zip(again, parts, strict=True)
    )
    assert sum(len(part.asked) for part in again) == 10


def test_a_mixture_tells_every_source_what_comes_next():
    parts = [Counted("a"), Counted("b")]
    mixed = MixedStream("depth", 1, parts, [1, 1])
    mixed.expect(range(20, 40))
    told = [part.expected for part in parts]
    for step in range(20, 40):
        mixed.batch(step)
    assert [part.asked for part in parts] == told
    assert all(told)


@pytest.mark.parametrize("parts", [[1.0, 1e-6], [1, 1, 1], [0.335, 0.335, 0.33], [5, 3, 2, 1, 7]])
def test_shares_fill_a_block_and_leave_no_source_out(parts: list[float]):
    counts = shares._counts(parts)
    assert sum(counts) == 100
    assert min(counts) >= 1
    total = sum(parts)
    assert all(
        abs(count - 100 * part / total) <= 1 for count, part in zip(counts, parts, strict=True)
    )


POOL = PoolConfig(chunk=2, chunks=2)
CONFIG = StreamConfig(2, 1, CPU, POOL, AugmentConfig())


def test_a_single_procedural_source_is_rendered_as_ever(workers: Executor):
    opened = open_stream("depth", (SourceShare(PROCEDURAL, 1.0),), 32, CONFIG, {}, workers)
    opened.expect([0, 1])
    assert equal(opened.batch(1), Stream("depth", 32, 2, POOL, 1, CPU).batch(1))


def test_real_and_rendered_pictures_can_be_mixed(
    workers: Executor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    asked: list[tuple[str, Path, str]] = []

    def opened(name: str, path: Path, split: str) -> Sequence[Sample]:
        asked.append((name, path, split))
        return samples(10)

    monkeypatch.setattr(shares, "open_set", opened)
    sources = (SourceShare(PROCEDURAL, 1.0), SourceShare("hypersim", 3.0))
    mixed = open_stream("depth", sources, 32, CONFIG, {"hypersim": tmp_path}, workers)
    assert asked == [("hypersim", tmp_path, "train")]
    real = 0
    for step in range(8):
        batch = mixed.batch(step)
        assert isinstance(batch, DepthBatch)
        assert batch.image.shape == (2, 3, 32, 32)
        real += batch.valid is not None
    assert real > 0


def test_sets_must_be_found(workers: Executor):
    with pytest.raises(DataError, match=r"--data hypersim=FOLDER"):
        open_stream("depth", (SourceShare("hypersim", 1.0),), 32, CONFIG, {}, workers)
    assert read_roots(["hypersim=/a=b", "sintel_clean=c"]) == {
        "hypersim": Path("/a=b"),
        "sintel_clean": Path("c"),
    }
    with pytest.raises(DataError, match="expected NAME=FOLDER"):
        read_roots(["hypersim"])
    with pytest.raises(DataError, match="'moon'"):
        read_roots(["moon=/a"])
