"""How long things will take, from what calls have cost and what is under way.

Pure arithmetic on the cost table, the workers and the pipeline; seconds unless a name says ms.
Before a network was ever called nothing is known of it, and it counts as free.
"""

import math
from collections.abc import Iterable, Mapping

from service.core.artifact import MAX_MEMBERS
from service.engine.costs import CostTable
from service.engine.groups import Group, Network, Networks
from service.engine.pipeline import Live
from service.engine.planner import Pace
from service.engine.pool import Pool
from service.engine.request import PredictionRequest, Priority, Terms
from service.engine.scheduler import SHARES

_UNKNOWN_ROW_S = 1e-3  # only its ratio to others matters, and only until the first call


class Forecast:
    """Predictions for one engine."""

    def __init__(self, costs: CostTable, pool: Pool) -> None:
        self._costs = costs
        self._pool = pool

    def familiarise(self, networks: Iterable[Network]) -> None:
        """Begin with a guess for inputs of a new size: a call costs as its pixels do.

        Where the same model was called with another size, that is; the first call corrects it.
        """
        for device in set(self._devices()):
            for network in networks:
                if not self._costs.knows(device, network):
                    self._guess(device, network)

    def _guess(self, device: str, network: Network) -> None:
        def distance(other: Network) -> float:
            return abs(math.log(_pixels(network) / _pixels(other)))

        known = [other for other in self._costs.networks(device) if other.model == network.model]
        if known:
            nearest = min(known, key=distance)
            self._costs.take_after(device, network, nearest, _pixels(network) / _pixels(nearest))

    def row_cost(self, group: Group) -> float:
        """Worker seconds of one row in a good batch: what fairness is counted in."""
        return self._costs.row_seconds(group.network) or _UNKNOWN_ROW_S

    def drain(self, pending: Mapping[Group, int], requests: Iterable[Live]) -> float:
        """Seconds until these requests are answered, whose rows together are `pending`.

        That is all their work at the rate of full batches, or the longest of them, whose steps
        follow each other however many workers are free.
        """
        known: dict[tuple[Network, int], float] = {}

        def alone(network: Network, rows: int) -> float:
            if (network, rows) not in known:  # requests are many and alike
                known[network, rows] = self._round(network, rows, [], False)
            return known[network, rows]

        def path(live: Live) -> float:
            rows = len(live.run.trajectories)
            if live.left["denoise"] and not live.left["encode"]:
                rows = live.num_open  # those of the present round that are still being denoised
            num_steps = math.ceil(live.left["denoise"] / rows)
            return (
                live.left["encode"] * alone(live.groups["encode"].network, 1)
                + num_steps * alone(live.groups["denoise"].network, rows)
                + alone(live.groups["decode"].network, live.left["decode"])
            )

        return max(self.work(pending), max(map(path, requests), default=0.0))

    def work(self, rows: Mapping[Group, int]) -> float:
        """Seconds until all workers together have taken so many rows of each group."""
        devices = self._devices()
        total = 0.0
        for group, count in rows.items():
            rate = self._costs.rows_per_second(devices, group.network)
            total += count / rate if rate else 0.0
        return total

    def pace(
        self,
        networks: Networks,
        num_components: int,
        terms: Terms,
        others: Iterable[Live],
        *,
        surely: bool,
    ) -> Pace:
        """What steps and members cost a request that came now, `others` being under way.

        `surely` takes for every call what nearly all calls stay below.
        """
        self.familiarise(networks)
        competing = [
            (
                len(live.run.trajectories),
                SHARES[live.run.request.terms.priority] / SHARES[terms.priority],
            )
            for live in others
        ]
        encoder = networks.encoder

        def per_members_ms(network: Network) -> tuple[float, ...]:
            rows = (m * num_components for m in range(1, MAX_MEMBERS + 1))
            return tuple(1e3 * self._round(network, count, competing, surely) for count in rows)

        wait = self._call(encoder, 1, surely) if self._busy(competing) else 0.0
        return Pace(
            fixed_ms=1e3 * (wait + self._round(encoder, 1, competing, surely)),
            step_ms=per_members_ms(networks.denoiser),
            finish_ms=per_members_ms(networks.decoder),
        )

    def finish(self, request: PredictionRequest, others: Iterable[Live]) -> float:
        """Seconds until a request with a deadline would be answered if it came now.

        Requests of its class with an earlier deadline go first; the others take their shares for as
        long as they have work.
        """
        plan, terms = request.plan, request.terms
        alone = self.pace(request.networks, len(request.components), terms, (), surely=False)
        own = (
            alone.fixed_ms
            + plan.steps * alone.step_ms[plan.members - 1]
            + alone.finish_ms[plan.members - 1]
        ) / 1e3
        ahead = beside = 0.0
        with_deadline, without = {terms.caller}, set[str]()
        shares: dict[Priority, float] = {}
        for live in others:
            theirs = live.run.request.terms
            work = self.work({live.groups[stage]: rows for stage, rows in live.left.items()})
            if theirs.priority == terms.priority and theirs.deadline is not None:
                with_deadline.add(theirs.caller)
                ahead += work if theirs.deadline <= (terms.deadline or math.inf) else 0.0
                continue
            beside += work
            if theirs.priority == terms.priority:
                without.add(theirs.caller)
            else:
                shares[theirs.priority] = SHARES[theirs.priority]
        share = SHARES[terms.priority] * len(with_deadline) / len(with_deadline | without)
        rest = sum(shares.values()) + SHARES[terms.priority] - share
        return own + ahead + min(beside, (own + ahead) * rest / share)

    def watchdog(self, device: str, network: Network, rows: int, floor: float) -> float:
        """Seconds after which a call is taken to hang: `floor`, or far beyond what it should take.

        The first call of a network may compile or allocate, so it gets more.
        """
        expected = self._costs.seconds(device, network, rows)
        return 6 * floor if expected is None else max(floor, 20 * expected)

    def haste(self, device: str, network: Network, rows: int, floor: float) -> float | None:
        """Seconds after which a call is slow, if others are not; None where nothing is known."""
        expected = self._costs.seconds(device, network, rows)
        return None if expected is None else max(floor, 20 * expected)

    def _devices(self) -> list[str]:
        members = self._pool.up or list(self._pool)
        return [member.worker.device for member in members]

    def _busy(self, competing: list[tuple[int, float]]) -> bool:
        return bool(competing) and not self._pool.num_idle

    def _round(
        self, network: Network, rows: int, competing: list[tuple[int, float]], surely: bool
    ) -> float:
        """Seconds for one call of each of `rows` rows, others getting their due of rows between."""
        others = sum(min(count, share * rows) for count, share in competing)
        devices = self._devices()
        rate = self._costs.rows_per_second(devices, network)
        if not rate:
            return 0.0
        each = math.ceil((rows + others) / len(devices))
        cap = max(self._costs.max_rows(device, network, each) for device in devices)
        if each <= cap:
            return self._call(network, each, surely)
        spread = self._call(network, cap, surely) / max(self._call(network, cap, False), 1e-9)
        return (rows + others) / rate * spread

    def _call(self, network: Network, rows: int, surely: bool) -> float:
        known = [
            self._costs.seconds(device, network, rows, surely=surely)
            for device in sorted(set(self._devices()))
        ]
        return max((seconds for seconds in known if seconds is not None), default=0.0)


def _pixels(network: Network) -> int:
    """Pixels or latent cells of a row."""
    return math.prod(network.shape[1:])
