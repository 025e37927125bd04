"""How long nobody has been able to run a model, or anything at all.

Workers come, go and fail, and models with them: what was accepted waits for a while and is then
given up.
"""

import asyncio
from collections.abc import Callable, Mapping

from service.engine.groups import Networks
from service.engine.pool import Pool


class Outages:
    """Runs in one event loop. `lost(model)` is told once per outage, with None for all models."""

    def __init__(self, pool: Pool, outage_s: float, lost: Callable[[str | None], None]) -> None:
        self._pool = pool
        self._outage_s = outage_s
        self._lost = lost
        self._timers: dict[str | None, asyncio.TimerHandle] = {}

    @property
    def is_out(self) -> bool:
        """Whether no worker has been up for as long as is waited for one."""
        timer = self._timers.get(None)
        return timer is not None and timer.when() <= asyncio.get_running_loop().time()

    def mind(self, wanted: Mapping[str, Networks]) -> None:
        """Look again, after workers came or went; `wanted` are the models under way."""
        for model in [model for model in self._timers if model is not None]:
            if model not in wanted:
                self._timers.pop(model).cancel()
        self._note(None, bool(self._pool.up))
        for model, networks in wanted.items():
            self.mind_one(model, networks)

    def mind_one(self, model: str, networks: Networks) -> None:
        """Look at one model alone, of which a request has come."""
        up = self._pool.up
        served = all(
            any(member.worker.serves(network.model) for member in up) for network in networks
        )
        self._note(model, served)

    def stop(self) -> None:
        """Wait for nothing any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _note(self, model: str | None, fine: bool) -> None:
        if fine and model in self._timers:
            self._timers.pop(model).cancel()
        elif not fine and model not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[model] = loop.call_later(self._outage_s, self._lost, model)
