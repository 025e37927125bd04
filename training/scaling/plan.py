"""What a study would train and what that costs, from the tables alone."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from training.scaling.networks import Network, lineage
from training.scaling.scale import Scale
from training.scaling.studies import STUDIES

_SECONDS = 3600


def networks_of(studies: Sequence[str], scale: Scale) -> list[Network]:
    """Every network that the studies need, ancestors first, each once."""
    found: dict[str, Network] = {}
    for name in studies:
        for point in STUDIES[name].points(scale):
            for network in lineage(point.network):
                found.setdefault(network.key, network)
    return list(found.values())


def new_macs(network: Network) -> int:
    """Multiply-adds that its training adds to what its parent's cost."""
    before = network.parent.own_macs if network.parent and network.beginning == "prolonged" else 0
    return network.own_macs - before


def gpu_hours(macs: int, peak: float, mfu: float) -> float:
    """Hours of one GPU of `peak` TFLOP/s of which the share `mfu` is reached."""
    return 2 * macs / (peak * 1e12 * mfu) / _SECONDS


def show_plan(studies: Sequence[str], scale: Scale, peak: float, mfu: float) -> None:
    """Prints every network: parameters, multiply-adds of one evaluation, samples, GPU hours."""
    networks = networks_of(studies, scale)
    table = Table(title=f"{scale.name}: GPU hours at {mfu:.0%} of {peak:g} TFLOP/s")
    columns = ("network", "from", "task", "px", "parameters", "MACs", "steps", "samples", "hours")
    for column in columns:
        table.add_column(column, justify="left" if column in columns[:3] else "right")
    for network in networks:
        table.add_row(
            f"{network.name}, {network.schedule}, seed {network.seed}",
            network.beginning,
            network.task,
            str(network.size),
            f"{network.parameters / 1e6:,.2f} M",
            f"{network.forward_macs / 1e9:,.3f} G",
            f"{network.steps:,}",
            f"{network.samples:,}",
            f"{gpu_hours(new_macs(network), peak, mfu):,.2f}",
        )
    console = Console(width=150)
    console.print(table)
    total = sum(new_macs(network) for network in networks)
    console.print(
        f"{len(networks)} networks, {gpu_hours(total, peak, mfu):,.2f} GPU hours of training"
    )
    for name in studies:
        points = STUDIES[name].points(scale)
        evaluations = sum(
            p.budget.steps * max(p.budget.members) * p.network.forward_macs for p in points
        )
        hours = gpu_hours(evaluations * scale.scenes, peak, mfu)
        console.print(f"  {name}: {len(points)} points, {hours:,.2f} GPU hours of sampling")
