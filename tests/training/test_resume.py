"""A run that was killed ends as the run that was not, to the last bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from safetensors.numpy import load_file

from tests.training.conftest import FINETUNE, Build
from training.checkpoint import latest_checkpoint
from training.finetune import WEIGHTS

PATIENCE_S = 300  # a machine may be busy


def test_a_killed_run_goes_on_as_if_nothing_had_been(
    finetuned: Build, autoencoder_run: Path, tmp_path: Path
):
    where = ["--vae", str(autoencoder_run), "--out", str(tmp_path)]
    command = [sys.executable, "-m", "training.finetune", "--run", "tiny", *FINETUNE, *where]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.DEVNULL) as run:
        give_up = time.monotonic() + PATIENCE_S
        while latest_checkpoint(tmp_path / "checkpoints") is None:
            assert run.poll() is None, "the run ended before its first checkpoint"
            assert time.monotonic() < give_up
            time.sleep(0.005)
        run.kill()
        assert run.wait() == -signal.SIGKILL
    assert not (tmp_path / WEIGHTS).exists()
    subprocess.run(
        command, cwd=root, env=environment, check=True, capture_output=True, timeout=PATIENCE_S
    )
    whole, resumed = load_file(finetuned("tiny") / WEIGHTS), load_file(tmp_path / WEIGHTS)
    assert whole.keys() == resumed.keys()
    differing = [name for name, value in whole.items() if (resumed[name] != value).any()]
    assert differing == []
    for name in ("model", "optimizer"):
        files = [
            load_file(folder / "checkpoints" / "00000006" / f"{name}.safetensors")
            for folder in (finetuned("tiny"), tmp_path)
        ]
        assert all((files[1][key] == value).all() for key, value in files[0].items())
