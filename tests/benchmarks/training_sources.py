"""How fast the sources of training batches are, against the steps that they feed."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from rich.table import Table

from training.data.mixture import PoolConfig
from training.data.sets import SETS
from training.data.shares import PROCEDURAL, SourceShare, StreamConfig, open_stream, read_roots
from training.data.stream import BatchStream
from training.distributed import own_device
from training.runs.finetune import FinetuneRun


@dataclass(frozen=True)
class Sources:
    """What is measured: the renderers of all tasks, and the sets that `data` names."""

    device: str
    data: tuple[str, ...]  # such as hypersim=FOLDER
    batches: int
    eager: bool  # renderers are not compiled, which the shipped run does

    def table(self, run: FinetuneRun, step_s: Mapping[str, float]) -> Table:
        """Batches per second of a run's rows against its steps per second, by `run, task`."""
        device, roots = own_device(self.device), read_roots(self.data)
        # A pool of fewer chunks is filled sooner, and renders as often.
        pool = replace(run.pool, chunks=2, compiled=run.pool.compiled and not self.eager)
        workers = run.loader.num_workers
        table = Table(
            title=f"(b) sources on {device}, batches of the shipped run",
            caption="What is rendered takes turns with the model on its device. What is read goes "
            f"on beside it ({workers} workers): from 1 batch per step on the model never waits.",
        )
        for column in ("source", "rows", "batches/s", "model steps/s", "batches per step"):
            table.add_column(column, justify="left" if column == "source" else "right")
        pairs = [(PROCEDURAL, task) for task in run.shares]
        pairs += [(name, SETS[name].task) for name in roots]
        with ThreadPoolExecutor(workers) as executor:
            for name, task in pairs:
                rows, size = run.rows[task], run.model.input_size(task)
                config = StreamConfig(rows, 1, device, pool, run.augment)
                share = [SourceShare(name, 1.0)]
                stream = open_stream(task, share, size, config, roots, executor)
                ahead = run.loader.batches_ahead(rows)
                found_s = measure(stream, ahead, device, self._batches(pool, rows))
                needed_s = step_s.get(f"shipped, {task}")
                model = ["-", "-"]
                if needed_s is not None:
                    model = [f"{1 / needed_s:.2f}", f"{needed_s / found_s:.1f}"]
                table.add_row(f"{name}, {task}", str(rows), f"{1 / found_s:.2f}", *model)
        return table

    def _batches(self, pool: PoolConfig, rows: int) -> int:
        """A pool renders a chunk now and then: whole rounds of it are measured."""
        round_of = max(1, pool.chunk * pool.views // rows)
        return round_of * max(1, self.batches // round_of)


def measure(stream: BatchStream, ahead: int, device: torch.device, batches: int) -> float:
    """Mean seconds of a batch after the first ones, which fill pools and compile."""
    ask = _asking(stream, ahead)
    for step in range(ahead):
        ask(step)
    begun = now(device)
    for step in range(ahead, ahead + batches):
        ask(step)
    return (now(device) - begun) / batches


def _asking(stream: BatchStream, ahead: int) -> Callable[[int], None]:
    def ask(step: int) -> None:
        stream.expect(range(step, step + ahead))
        stream.batch(step)

    return ask


def now(device: torch.device) -> float:
    """The time in seconds when the device has done all that it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
