"""Two processes learn what one learns from the same micro-batches."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from tests.support.small_run import WEIGHTS, Job, run
from training import finetune
from training.checkpoint import load_state
from training.curves import CURVES
from training.distributed import LaunchError, World, own_device
from training.gradients import StepResult
from training.loop import LoopConfig, train
from training.provenance import RECORD

ROOT = Path(__file__).parents[2]
PATIENCE_S = 600  # a machine may be busy
TOLERANCE = 1e-6


# A thread of torch's own that the interpreter's end overtakes once in hundreds of runs, when all
# work is done: nothing of ours is running then.
_EXIT_RACE = "terminate called without an active exception"


def launch(*words: str) -> None:
    """Runs a module in two processes; without `--`, torchrun takes `--run` for its own."""
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "--")
    launch_alone(*torchrun, *words)


def launch_alone(*words: str) -> None:
    """Runs a module in one process, which no test before has brought to other kernels."""
    done = _run(*words)
    if _EXIT_RACE in done.stderr:
        done = _run(*words)  # a finished run goes on from its end
    assert done.returncode == 0, done.stderr


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def launch_jobs(*jobs: Job) -> None:
    launch("tests.support.small_run", *(json.dumps(asdict(job)) for job in jobs))


def felt(path: Path) -> dict[str, Tensor]:
    """Weights, without the keys' biases: softmax ignores them, so that Adam learns rounding."""
    weights = load_file(path)
    for name, value in weights.items():
        if name.endswith("qkv.bias"):
            weights[name] = torch.cat([value.chunk(3)[0], value.chunk(3)[2]])
    return weights


def assert_equal(found: Path, expected: Path) -> None:
    first, second = felt(found), felt(expected)
    assert first.keys() == second.keys()
    for name, value in second.items():
        assert (first[name] - value).norm() <= TOLERANCE * value.norm(), name


def gradient_norms(folder: Path) -> list[float]:
    """What a run wrote of its gradients, before they were clipped."""
    curves = EventAccumulator(str(folder / "curves"))
    curves.Reload()
    return [event.value for event in curves.Scalars("gradient_norm")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run by one process, in steps of four micro-batches."""
    folder = tmp_path_factory.mktemp("alone")
    run(Job(str(folder)))
    return folder


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs by two processes, some of them begun by one, some of them left to one."""
    root = tmp_path_factory.mktemp("together")
    run(Job(str(root / "joined"), steps=3))
    launch_jobs(
        Job(str(root / "replicate")),
        Job(str(root / "shard"), sharding="shard", recompute=True),
        Job(str(root / "joined"), sharding="shard"),
        Job(str(root / "left"), sharding="shard", steps=3),
    )
    run(Job(str(root / "left")))
    return root


def test_the_model_tells_whether_a_step_was_lost(alone: Path, tmp_path: Path):
    run(Job(str(tmp_path), steps=5))
    with pytest.raises(AssertionError):
        assert_equal(tmp_path / WEIGHTS, alone / WEIGHTS)


@pytest.mark.parametrize("name", ["replicate", "shard"])
def test_two_processes_learn_what_one_learns(together: Path, alone: Path, name: str):
    assert_equal(together / name / WEIGHTS, alone / WEIGHTS)
    for file in ("model", "ema", "optimizer"):
        path = f"checkpoints/00000006/{file}.safetensors"
        shapes = [
            {n: v.shape for n, v in load_file(f / path).items()} for f in (together / name, alone)
        ]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", ["replicate", "shard"])
def test_two_processes_have_the_gradients_of_one(together: Path, alone: Path, name: str):
    """Adam would learn the same of gradients that are all too large by one factor."""
    found, expected = gradient_norms(together / name), gradient_norms(alone)
    assert len(expected) == 3
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["joined", "left"])
def test_a_run_goes_on_with_another_number_of_processes(together: Path, alone: Path, name: str):
    assert_equal(together / name / WEIGHTS, alone / WEIGHTS)
    starts = json.loads((together / name / RECORD).read_text())["starts"]
    sizes = {"joined": [1, 2], "left": [2, 1]}[name]
    assert [(start["step"], start["world_size"]) for start in starts] == [
        (0, sizes[0]),
        (3, sizes[1]),
    ]


def test_samples_and_macs_are_counted_over_all_processes(together: Path, alone: Path):
    states = [
        load_state(folder / "checkpoints" / "00000006")
        for folder in (alone, together / "replicate", together / "joined", together / "left")
    ]
    assert states[0].samples == 48
    assert states[0].passes == {"near": 20, "far": 4}
    assert states[0].macs > 0
    for state in states:
        assert (state.samples, state.macs) == (states[0].samples, states[0].macs)
    rows = (together / "replicate" / CURVES).read_text().splitlines()
    assert len(rows) == len((alone / CURVES).read_text().splitlines())


def test_micro_batches_must_be_shared_evenly(tmp_path: Path):
    assert [list(World(rank, 2).own(4)) for rank in (0, 1)] == [[0, 2], [1, 3]]
    with pytest.raises(LaunchError, match="micro_batches is 3, which 2 processes"):
        World(1, 2).own(3)


def test_accumulated_micro_batches_are_the_large_batch(tmp_path: Path):
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    ends, norms = [], []
    for micro_batches in (1, 4):
        torch.manual_seed(2)
        model = nn.Linear(3, 1)

        def compute(index: int, model: nn.Module = model, parts: int = micro_batches) -> StepResult:
            rows = slice(8 // parts * (index % parts), 8 // parts * (index % parts + 1))
            return StepResult(
                {"mse": (model(x[rows]) - y[rows]).square().mean()}, 8 // parts, "line"
            )

        config = LoopConfig(
            steps=5, warmup_steps=1, micro_batches=micro_batches, bf16=False, log_every=1
        )
        train(model, compute, config, tmp_path / str(micro_batches), {})
        ends.append(model.weight.detach())
        norms.append(gradient_norms(tmp_path / str(micro_batches)))
    torch.testing.assert_close(ends[0], ends[1])
    assert len(norms[0]) == 5
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_a_device_is_ones_own_only_where_torchrun_says_which(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert own_device("cuda") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device("cpu") == torch.device("cpu")
    assert own_device("cuda:0") == torch.device("cuda:0")
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert own_device("cuda") == torch.device("cuda", 1)
    assert chosen == [torch.device("cuda", 1)]


def test_recomputed_activations_change_nothing(alone: Path, tmp_path: Path):
    run(replace(Job(str(tmp_path)), recompute=True))
    first, second = load_file(tmp_path / WEIGHTS), load_file(alone / WEIGHTS)
    assert all(torch.equal(first[name], value) for name, value in second.items())
    states = [load_state(f / "checkpoints" / "00000006") for f in (tmp_path, alone)]
    assert states[0].macs > states[1].macs  # it was indeed done twice


def test_the_command_line_learns_the_same_in_two_processes(autoencoder_run: Path, tmp_path: Path):
    def words(name: str) -> list[str]:
        settings = ("loop.steps=2", "loop.micro_batches=2", "loop.bf16=false")
        overrides = [word for setting in settings for word in ("--set", setting)]
        where = ["--vae", str(autoencoder_run), "--out", str(tmp_path / name)]
        return ["--run", "tiny", "--device", "cpu", *overrides, *where]

    launch("training.finetune", *words("together"))
    launch_alone("training.finetune", *words("alone"))
    assert_equal(tmp_path / "together" / finetune.WEIGHTS, tmp_path / "alone" / finetune.WEIGHTS)
    start = json.loads((tmp_path / "together" / RECORD).read_text())["starts"][0]
    assert start["world_size"] == len(start["devices"]) == 2
    assert "training.finetune" in start["command"]
