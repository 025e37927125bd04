"""A run that was killed ends as the run that was not, to the last bit."""

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.numpy import load_file

from tests.support.checkpoints import load_checkpoint
from tests.support.small_run import WEIGHTS as SMALL_WEIGHTS
from tests.support.small_run import Job, build
from tests.training.conftest import FINETUNE
from training.checkpoint import latest_checkpoint
from training.finetune import WEIGHTS

PATIENCE_S = 300  # a machine may be busy
ROOT = Path(__file__).parents[2]


def test_kills_at_any_moment_cost_nothing_but_time(tmp_path: Path):
    # A checkpoint after every step: one is being written at almost every moment. Far more steps
    # than the kills wait for, since a busy machine may let a run go on before it is killed.
    whole, broken = (
        Job(str(tmp_path / name), steps=80, micro_batches=1, save_every=1)
        for name in ("whole", "broken")
    )
    command = [sys.executable, "-m", "tests.support.small_run", json.dumps(asdict(broken))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    checkpoints = Path(broken.out) / "checkpoints"
    chance = random.Random(1)
    reached = 0
    for _ in range(4):
        _kill_after(command, environment, chance.randint(4, 9), chance.uniform(0, 0.02))
        found = latest_checkpoint(checkpoints)
        assert found is not None
        model = build()
        trained = [p for p in model.parameters() if p.requires_grad]
        parts = model, copy.deepcopy(model), torch.optim.AdamW(trained)
        assert load_checkpoint(found, *parts).step == int(found.name)
        assert reached < int(found.name) < broken.steps
        reached = int(found.name)
    _complete(command, environment)
    _complete([*command[:-1], json.dumps(asdict(whole))], environment)
    for file in (
        SMALL_WEIGHTS,
        *(f"checkpoints/00000080/{n}.safetensors" for n in ("model", "optimizer")),
    ):
        expected, found_there = (
            load_file(Path(whole.out) / file),
            load_file(Path(broken.out) / file),
        )
        assert expected.keys() == found_there.keys()
        assert [n for n, value in expected.items() if (found_there[n] != value).any()] == []
    assert sorted(path.name for path in checkpoints.iterdir()) == ["00000079", "00000080"]


def _kill_after(command: list[str], environment: dict[str, str], steps: int, then_s: float) -> None:
    """Kills the run when it has told of `steps` more steps, and a moment later."""
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as running:
        assert running.stdout is not None
        for _ in range(steps):
            assert running.stdout.readline(), "the run ended by itself"
        time.sleep(then_s)  # any moment will do
        running.kill()
        assert running.wait() == -signal.SIGKILL


def test_a_killed_run_goes_on_as_if_nothing_had_been(autoencoder_run: Path, tmp_path: Path):
    # Long enough that no machine is through before it is killed.
    told = ["--run", "tiny", *FINETUNE, "--set", "loop.steps=30", "--vae", str(autoencoder_run)]
    whole_folder, folder = tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, "-m", "training.finetune", *told, "--out", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    # In a process of its own as well: which kernels torch picks depends on what ran before.
    _complete([*command[:-1], str(whole_folder)], environment)
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as killed:
        give_up = time.monotonic() + PATIENCE_S
        while latest_checkpoint(folder / "checkpoints") is None:
            assert killed.poll() is None, "the run ended before its first checkpoint"
            assert time.monotonic() < give_up
            time.sleep(0.005)
        killed.kill()
        assert killed.wait() == -signal.SIGKILL
    assert not (folder / WEIGHTS).exists()
    _complete(command, environment)
    whole, resumed = load_file(whole_folder / WEIGHTS), load_file(folder / WEIGHTS)
    assert whole.keys() == resumed.keys()
    differing = [name for name, value in whole.items() if (resumed[name] != value).any()]
    assert differing == []
    for name in ("model", "optimizer"):
        files = [
            load_file(run / "checkpoints" / "00000030" / f"{name}.safetensors")
            for run in (whole_folder, folder)
        ]
        assert all((files[1][key] == value).all() for key, value in files[0].items())


def _complete(command: list[str], environment: dict[str, str]) -> None:
    """Runs a command to its end."""
    subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=PATIENCE_S
    )
