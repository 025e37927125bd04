"""Streams of batches: the pool behind them, mirrors and cameras."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from training.data import mixture
from training.data.mixture import PoolConfig, Source, Stream, mirror, photograph, seeded, tensors
from training.data.sample import AmodalBatch, Batch, DepthBatch, FlowBatch

CPU = torch.device("cpu")
POOL = PoolConfig(chunk=4, chunks=3, views=2)


def noise(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator)


def render(generator: torch.Generator, count: int, size: int) -> DepthBatch:
    """Pictures that are told apart by their constant depth."""
    number = noise(generator, count, 1, 1, 1).expand(count, 1, size, size)
    return DepthBatch(noise(generator, count, 3, size, size), 1 + number)


def numbers(batch: Batch) -> list[float]:
    assert isinstance(batch, DepthBatch)
    return batch.depth[:, 0, 0, 0].tolist()


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "SOURCES", {"depth": (Source(render, 1.0),)})


def stream(rows: int = 3, seed: int = 1, config: PoolConfig = POOL) -> Stream:
    return Stream("depth", 8, rows, config, seed, CPU)


def equal(first: Batch, second: Batch) -> bool:
    one, other = tensors(first), tensors(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.usefixtures("rendered")
def test_a_batch_depends_on_seed_task_and_step_alone():
    running = stream()
    batches = [running.batch(step) for step in range(20)]
    for step in (0, 3, 11, 19):
        assert equal(stream().batch(step), batches[step])
        assert not equal(stream(seed=2).batch(step), batches[step])
    assert not equal(batches[0], batches[1])


def test_pictures_are_looked_at_views_times_on_average(monkeypatch: pytest.MonkeyPatch):
    chunks: list[list[float]] = []

    def counted(generator: torch.Generator, count: int, size: int) -> DepthBatch:
        batch = render(generator, count, size)
        chunks.append(numbers(batch))
        return batch

    monkeypatch.setattr(mixture, "SOURCES", {"depth": (Source(counted, 1.0),)})
    running, seen = stream(), Counter[float]()
    for step in range(200):
        drawn = numbers(running.batch(step))
        assert len(set(drawn)) == 3  # a picture is at most once in a batch
        seen.update(drawn)
    settled = [seen[number] for chunk in chunks[3:-3] for number in chunk]
    assert 1.8 < sum(settled) / len(settled) < 2.2


@pytest.mark.usefixtures("rendered")
def test_the_pool_is_renewed_from_its_oldest_end():
    running = stream(rows=4)
    first = {n for step in range(2) for n in numbers(running.batch(step))}
    later = {n for step in range(6, 40) for n in numbers(running.batch(step))}
    assert first.isdisjoint(later)  # after chunks * chunk * views / rows = 6 steps


@pytest.mark.usefixtures("rendered")
def test_more_rows_than_pictures_are_refused():
    with pytest.raises(ValueError, match="13 rows of depth do not fit a pool of 3 x 4"):
        stream(rows=13)


def test_sources_are_drawn_by_their_shares_and_compiled_where_they_can_be(
    monkeypatch: pytest.MonkeyPatch,
):
    calls: list[tuple[str, bool]] = []

    def plain(generator: torch.Generator, count: int, size: int) -> DepthBatch:
        calls.append(("plain", False))
        return render(generator, count, size)

    def fast(
        generator: torch.Generator, count: int, size: int, compiled: bool = False
    ) -> DepthBatch:
        calls.append(("fast", compiled))
        return render(generator, count, size)

    sources = (Source(plain, 0.75), Source(fast, 0.25, compiles=True))
    monkeypatch.setattr(mixture, "SOURCES", {"depth": sources})
    running = stream(rows=1, config=PoolConfig(chunk=1, chunks=1, views=1, compiled=True))
    for step in range(200):
        running.batch(step)
    assert len(calls) == 200
    assert dict(calls) == {"plain": False, "fast": True}
    assert 0.65 < sum(name == "plain" for name, _ in calls) / 200 < 0.85


def test_keys_make_generators():
    first, again, other = (seeded(CPU, "a", key, 1) for key in (1, 1, 2))
    assert first.initial_seed() == again.initial_seed() != other.initial_seed()
    assert seeded(CPU, "1").initial_seed() != seeded(CPU, 1).initial_seed()


def flow_batch(rows: int) -> FlowBatch:
    g = torch.Generator().manual_seed(0)
    return FlowBatch(
        noise(g, rows, 3, 16, 16),
        noise(g, rows, 3, 16, 16),
        noise(g, rows, 2, 16, 16) - 0.5,
        noise(g, rows, 1, 16, 16) > 0.5,
        noise(g, rows, 1, 16, 16) > 0.2,
    )


def test_a_mirror_swaps_sides_and_turns_horizontal_motion_around():
    batch = flow_batch(40)
    seen = mirror(batch, seeded(CPU, "mirror"))
    turned = 0
    for row in range(40):
        if torch.equal(seen.frame1[row], batch.frame1[row]):
            for name, value in tensors(batch).items():
                assert torch.equal(getattr(seen, name)[row], value[row])
            continue
        turned += 1
        assert torch.equal(seen.frame1[row], batch.frame1[row].flip(-1))
        assert torch.equal(seen.frame2[row], batch.frame2[row].flip(-1))
        assert torch.equal(seen.occluded[row], batch.occluded[row].flip(-1))
        assert torch.equal(seen.flow[row, 0], -batch.flow[row, 0].flip(-1))
        assert torch.equal(seen.flow[row, 1], batch.flow[row, 1].flip(-1))
    assert 10 < turned < 30


def test_a_mirrored_pair_still_matches():
    first = torch.rand(20, 3, 4, 16, generator=torch.Generator().manual_seed(0))
    flow = torch.zeros(20, 2, 4, 16)
    flow[:, 0] = 3
    none = torch.zeros(20, 1, 4, 16, dtype=torch.bool)
    seen = mirror(FlowBatch(first, first.roll(3, dims=3), flow, none), seeded(CPU, 0))
    for row in range(20):
        u = int(seen.flow[row, 0, 0, 0])
        assert torch.equal(seen.frame2[row].roll(-u, dims=2), seen.frame1[row])


def _answers(batch: Batch) -> dict[str, Tensor]:
    pictures = {"image", "frame1", "frame2"}
    return {name: value for name, value in tensors(batch).items() if name not in pictures}


@pytest.mark.parametrize("kind", [DepthBatch, FlowBatch, AmodalBatch])
def test_a_camera_changes_pictures_and_keeps_answers(kind: type):
    g = torch.Generator().manual_seed(0)
    mask = (noise(g, 4, 1, 16, 16) > 0.5).float()
    picture = noise(g, 4, 3, 16, 16)
    batches: dict[type, Batch] = {
        DepthBatch: DepthBatch(picture, 1 + mask),
        FlowBatch: flow_batch(4),
        AmodalBatch: AmodalBatch(picture, mask, mask, noise(g, 4, 3, 16, 16)),
    }
    batch = batches[kind]
    seen = photograph(batch, seeded(CPU, "camera"))
    for name, answer in _answers(batch).items():
        assert torch.equal(getattr(seen, name), answer)
    for name in ("image", "frame1", "frame2"):
        if hasattr(batch, name):
            shown = getattr(seen, name)
            assert not torch.equal(shown, getattr(batch, name))
            assert shown.min() >= 0
            assert shown.max() <= 1
