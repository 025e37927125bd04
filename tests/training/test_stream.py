"""Batches from data sets: the same whoever reads them, whenever, and from wherever one resumes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, wait
from dataclasses import replace

import numpy as np
import pytest
import torch

from service.core.record import ArtifactError
from training.data.augment import AugmentConfig
from training.data.mixture import tensors
from training.data.sample import (
    AmodalBatch,
    AmodalTruth,
    Batch,
    DataError,
    DepthBatch,
    DepthTruth,
    FlowBatch,
    FlowTruth,
    Sample,
    Samples,
)
from training.data.stream import LoaderConfig, SetStream, collate, reading

CPU = torch.device("cpu")
SIZE = 16


def read(number: int) -> Sample:
    """A sample that is told apart by its constant depth, with a picture that is not constant."""
    generator = np.random.default_rng(number)
    image = generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)
    depth = np.full((20, 24), 1.0 + number, dtype=np.float32)
    return Sample(f"{number}", (image,), DepthTruth(depth, depth > 0))


def samples(count: int) -> Sequence[Sample]:
    return Samples(range(count), read)


@pytest.fixture
def workers() -> Iterator[Executor]:
    with reading(LoaderConfig(workers=3)) as pool:
        yield pool


def stream(workers: Executor, count: int = 10, rows: int = 4, seed: int = 1) -> SetStream:
    return SetStream("set", samples(count), SIZE, rows, seed, CPU, workers)


def numbers(batch: Batch) -> list[int]:
    assert isinstance(batch, DepthBatch)
    return [round(float(row)) - 1 for row in batch.depth[:, 0, 0, 0]]


def equal(first: Batch, second: Batch) -> bool:
    one, other = tensors(first), tensors(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_every_epoch_is_the_whole_set_in_another_order(workers: Executor):
    drawn = [n for step in range(15) for n in numbers(stream(workers).batch(step))]
    epochs = [drawn[start : start + 10] for start in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_a_batch_depends_on_seed_and_step_alone(workers: Executor):
    running = stream(workers)
    batches = []
    for step in range(8):
        running.expect(range(step, step + 3))
        batches.append(running.batch(step))
    for step in (0, 5, 7):
        assert equal(stream(workers).batch(step), batches[step])  # nothing before, nothing ahead
        assert not equal(stream(workers, seed=2).batch(step), batches[step])
    assert equal(running.batch(2), batches[2])
    for kind, count in (("threads", 1), ("threads", 7)):
        with reading(LoaderConfig(workers=count, kind=kind)) as others:  # type: ignore[arg-type]
            assert equal(stream(others).batch(5), batches[5])


def test_a_picture_is_seen_another_way_in_every_epoch(workers: Executor):
    config = AugmentConfig(crop_area=0.3)
    one = SetStream("set", samples(1), SIZE, 1, 1, CPU, workers, config)
    views = [one.batch(epoch) for epoch in range(4)]
    assert {tuple(numbers(view)) for view in views} == {(0,)}
    assert not any(equal(views[0], view) for view in views[1:])


def test_processes_read_what_threads_read(workers: Executor):
    with reading(LoaderConfig(workers=1, kind="processes")) as others:
        assert equal(stream(others).batch(3), stream(workers).batch(3))


def test_only_what_is_expected_is_read_ahead(workers: Executor):
    read_so_far: list[int] = []

    def noting(number: int) -> Sample:
        read_so_far.append(number)
        return read(number)

    running = SetStream("set", Samples(range(100), noting), SIZE, 4, 1, CPU, workers)
    running.expect([0, 1])
    running.batch(0)
    running.batch(1)
    assert len(read_so_far) == 8
    running.expect([2, 3])
    running.expect([3, 4])  # the second step is not wanted any more, the third is not read twice
    running.batch(3)
    running.batch(4)
    wanted = [n for step in (0, 1, 3, 4) for n in numbers(stream(workers, 100).batch(step))]
    counted = Counter(read_so_far)
    assert all(counted[number] == 1 for number in wanted)


def test_what_is_expected_is_read_before_it_is_asked_for(workers: Executor):
    running = stream(workers)
    running.expect([0])
    done, waiting = wait(running._begun[0], timeout=60)
    assert len(done) == 4
    assert not waiting
    assert len(numbers(running.batch(0))) == 4


def test_a_sample_that_cannot_be_read_is_an_error_of_its_batch(workers: Executor):
    def broken(number: int) -> Sample:
        if number == 3:
            raise DataError("3.png cannot be read")
        return read(number)

    running = SetStream("set", Samples(range(4), broken), SIZE, 4, 1, CPU, workers)
    with pytest.raises(DataError, match=r"3\.png"):
        running.batch(0)
    with pytest.raises(DataError, match="set has no samples"):
        SetStream("set", [], SIZE, 4, 1, CPU, workers)


def test_workers_are_as_many_as_asked_for_and_enough_is_read_ahead(monkeypatch: pytest.MonkeyPatch):
    assert LoaderConfig(workers=5).num_workers == 5
    alone = LoaderConfig().num_workers
    assert 1 <= alone <= 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(alone))
    assert LoaderConfig().num_workers == 1
    assert LoaderConfig(workers=16, ahead=2).batches_ahead(8) == 4
    assert LoaderConfig(workers=1, ahead=2).batches_ahead(8) == 2
    with pytest.raises(ArtifactError, match="workers"):
        LoaderConfig(workers=0)
    with pytest.raises(ArtifactError, match="ahead"):
        LoaderConfig(ahead=-1)


def test_flow_samples_become_a_batch():
    generator = np.random.default_rng(0)
    rows = []
    for known in (True, False):
        images = tuple(
            generator.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(2)
        )
        flow = generator.normal(size=(2, SIZE, SIZE)).astype(np.float32)
        hidden = generator.random((SIZE, SIZE)) > 0.5
        truth = FlowTruth(flow, ~hidden, hidden if known else None)
        rows.append(Sample("pair", images, truth))
    batch = collate(rows, CPU)
    assert isinstance(batch, FlowBatch)
    for index, sample in enumerate(rows):
        assert isinstance(sample.truth, FlowTruth)
        expected = torch.from_numpy(sample.images[1]).permute(2, 0, 1) / 255
        torch.testing.assert_close(batch.frame2[index], expected)
        assert np.array_equal(batch.flow[index].numpy(), sample.truth.flow)
        assert batch.valid is not None
        assert np.array_equal(batch.valid[index, 0].numpy(), sample.truth.valid)
    assert batch.occluded[0].any()
    assert not batch.occluded[1].any()  # nothing is known of it


def test_amodal_samples_become_a_batch_and_need_the_whole_object():
    visible = np.zeros((SIZE, SIZE), dtype=bool)
    visible[2:5] = True
    amodal = np.zeros_like(visible)
    amodal[3:9] = True
    image = np.full((SIZE, SIZE, 3), 51, dtype=np.uint8)
    sample = Sample("object", (image,), AmodalTruth(visible, amodal, image))
    batch = collate([sample, sample], CPU)
    assert isinstance(batch, AmodalBatch)
    torch.testing.assert_close(batch.whole, torch.full((2, 3, SIZE, SIZE), 0.2))
    assert batch.amodal[0, 0, :, 0].tolist() == [0, 0] + [1] * 7 + [0] * 7  # with what is visible
    assert batch.visible.sum() == 2 * 3 * SIZE
    unseen = replace(sample, truth=AmodalTruth(visible, amodal, None))
    with pytest.raises(DataError, match="object: nothing tells"):
        collate([unseen], CPU)
