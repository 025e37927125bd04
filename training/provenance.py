"""Where a run's weights come from: `run.json` says what was started, MACs say what it cost."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.hooks import RemovableHandle

RECORD = "run.json"


@dataclass(frozen=True)
class Commit:
    """The state of the source tree."""

    hash: str
    dirty: bool  # whether tracked files differ from it


@dataclass(frozen=True)
class Start:
    """One start of a run, the first or after an interruption."""

    time: str  # ISO 8601, UTC
    step: int  # from which it went on
    command: tuple[str, ...]
    git: Commit | None  # None outside of a repository
    python: str
    torch: str
    packages: Mapping[str, str]
    devices: tuple[str, ...]  # one per process
    world_size: int


def describe_start(step: int, devices: tuple[str, ...]) -> Start:
    """This process's code and surroundings, at this moment."""
    return Start(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        step=step,
        command=tuple(sys.orig_argv),
        git=commit_of(Path(__file__).parent),
        python=platform.python_version(),
        torch=torch.__version__,
        packages={d.name: d.version for d in metadata.distributions() if d.name},
        devices=devices,
        world_size=len(devices),
    )


def record_start(folder: Path, config: Mapping[str, object], start: Start) -> None:
    """Writes `run.json` of a run's folder: the newest configuration, and all starts."""
    path = folder / RECORD
    before = json.loads(path.read_text())["starts"] if path.is_file() and start.step else []
    text = json.dumps({"config": config, "starts": [*before, asdict(start)]}, indent=2)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text + "\n")
    os.replace(partial, path)


def commit_of(folder: Path) -> Commit | None:
    """The commit that is checked out around `folder`; None without git or outside of one."""
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*words: str) -> str:
        command = [git, "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603

    try:
        return Commit(
            ask("rev-parse", "HEAD"), bool(ask("status", "--porcelain", "--untracked-files=no"))
        )
    except subprocess.CalledProcessError:
        return None


def device_name(device: torch.device) -> str:
    """What the device is called by its maker."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


class MacCounter:
    """Multiply-accumulates of what the parts of `model` do within the context, backward included.

    Counting begins when the first part is entered: pictures may have been rendered before by
    compiled code, which would fall back to the interpreter for good if it were watched.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._mode: Any = _Products()
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        self._hooks = [m.register_forward_pre_hook(self._begin) for m in self._model.modules()]
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._hooks:  # no part was entered
            self._unhook()
        else:
            self._mode.__exit__(*exception)

    @property
    def macs(self) -> int:
        """Half of the floating-point operations of matrix products, convolutions, attention."""
        return int(self._mode.flops) // 2

    def _begin(self, *_: object) -> None:
        if self._hooks:
            self._unhook()
            self._mode.__enter__()

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts by the formulas of torch's `FlopCounterMode`, and changes nothing.

    That mode itself takes some operations apart, which rounds differently: a resumed run, which
    need not count again, would differ from an uninterrupted one.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self._formulas = {**flop_registry, **_uncounted()}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        formula = self._formulas.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> int:
    """Scores and mixture: (B, heads, T, D) queries."""
    return _pairs(query, key) * (query.shape[3] + value.shape[3])


def _attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object
) -> int:
    """Scores once more, and the gradients of queries, keys, scores and values."""
    del gradient
    return _pairs(query, key) * (3 * query.shape[3] + 2 * value.shape[3])


def _pairs(query: Tensor, key: Tensor) -> int:
    return 2 * query.shape[:3].numel() * key.shape[2]


def _grouped(left: Tensor, right: Tensor, *_: object, **__: object) -> int:
    """Rows (N, K) in groups through (G, K, M), or, for its gradient, (K, N) with (N, M)."""
    return 2 * left.shape[-2] * left.shape[-1] * right.shape[-1]


def _uncounted() -> dict[Any, Callable[..., int]]:
    """Products that torch does not count by itself: attention on CPUs, and groups of experts."""
    aten = torch.ops.aten
    return {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
        aten._grouped_mm: _grouped,
    }
