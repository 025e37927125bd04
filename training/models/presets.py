"""The published networks by name, as they were pre-trained on ImageNet.

`python -m training.models.presets` prints their parameters and the work of one evaluation.

- `a1` .. `a6`: the six dense sizes of the perception paper (arXiv 2411.08034).
- `DiT-S/8` .. `DiT-XL/2`: Peebles and Xie, table 4.
- `MoE-S/2-8E2A` .. `MoE-XL/2-8E2A`: Fei et al., table 1, trained from scratch; `-upcycled` is the
  perception paper's form of the largest, whose experts are copies of a dense MLP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from training.models.counting import count
from training.models.dit import DiTConfig
from training.models.moe import ExpertsConfig


@dataclass(frozen=True)
class _Size:
    depth: int
    width: int
    heads: int


_PAPER: Mapping[str, _Size] = {
    "a1": _Size(12, 256, 16),
    "a2": _Size(16, 512, 16),
    "a3": _Size(20, 768, 16),
    "a4": _Size(24, 1024, 16),
    "a5": _Size(28, 1536, 16),
    "a6": _Size(32, 1792, 16),
}
_DIT: Mapping[str, _Size] = {
    "S": _Size(12, 384, 6),
    "B": _Size(12, 768, 12),
    "L": _Size(24, 1024, 16),
    "XL": _Size(28, 1152, 16),
}
_FROM_SCRATCH = ExpertsConfig(num=8, active=2, kind="swiglu", shared=2)
_UPCYCLED = ExpertsConfig(num=8, active=2, kind="gelu")


def imagenet(size: _Size, patch: int = 2, experts: ExpertsConfig | None = None) -> DiTConfig:
    """A class-conditional denoiser of four-channel latents that learns its variance.

    1001 labels: the classes, and none of them.
    """
    return DiTConfig(
        in_channels=4,
        out_channels=8,
        num_labels=1001,
        width=size.width,
        depth=size.depth,
        heads=size.heads,
        patch=patch,
        num_routes=1,
        first_axis="columns",
        experts=experts,
    )


def _presets() -> dict[str, DiTConfig]:
    rows = {name: imagenet(size) for name, size in _PAPER.items()}
    rows |= {
        f"DiT-{name}/{patch}": imagenet(size, patch)
        for name, size in _DIT.items()
        for patch in (8, 4, 2)
    }
    rows |= {
        f"MoE-{name}/2-8E2A": imagenet(size, experts=_FROM_SCRATCH) for name, size in _DIT.items()
    }
    largest = rows["MoE-XL/2-8E2A"]
    return rows | {"MoE-XL/2-8E2A-upcycled": replace(largest, experts=_UPCYCLED)}


PRESETS: Mapping[str, DiTConfig] = MappingProxyType(_presets())


def main() -> None:
    """Prints the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title="millions of parameters, with positions; billions of multiply-adds per evaluation"
    )
    table.add_column("preset", no_wrap=True)
    for column in ("L x D, heads", "all", "active", "256 px", "512 px"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, config in PRESETS.items():
        small, large = count(config, 256), count(config, 512)
        table.add_row(
            name,
            f"{config.depth} x {config.width}, {config.heads}",
            f"{small.parameters / 1e6:,.1f}",
            f"{small.active_parameters / 1e6:,.1f}",
            f"{small.macs / 1e9:,.2f}",
            f"{large.macs / 1e9:,.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
