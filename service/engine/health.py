"""Which workers are well: those that failed are probed until they answer again.

A worker under examination gets no calls. Its probe is one row of noise in the shape of what it
failed on, which no sound network answers with NaN. When none has been usable for too long, that is
told once.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

import numpy as np

from service.backends.base import BackendError, Worker
from service.engine.groups import Network
from service.engine.pool import Member, Pool

logger = logging.getLogger(__name__)

Inputs = Mapping[str, np.ndarray]

LONGEST_PAUSE_S = 4.0  # between probes: one that refuses calls is found soon after it is back


class Health:
    """Examines workers in the running event loop.

    `judged(member, well)` is called after each probe, `changed(member)` when a worker goes down or
    comes up, `lost()` when none has been up for `outage_s`. `patience_s(member, network)` is how
    long a probe may take.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        judged: Callable[[Member, bool], None],
        changed: Callable[[Member], None],
        lost: Callable[[], None],
        patience_s: Callable[[Member, Network], float],
        outage_s: float,
        first_pause_s: float = 0.25,
    ) -> None:
        self._pool = pool
        self._judged = judged
        self._changed = changed
        self._lost = lost
        self._patience_s = patience_s
        self._outage_s = outage_s
        self._first_pause_s = first_pause_s
        self._probes: dict[Member, asyncio.Task[None]] = {}
        self._outage: asyncio.TimerHandle | None = None
        self._running = True

    @property
    def is_out(self) -> bool:
        """Whether every worker has been down for as long as an outage is waited for."""
        return self._outage is not None and self._outage.when() <= _loop().time()

    async def stop(self) -> None:
        """Probe no more."""
        self._running = False
        if self._outage is not None:
            self._outage.cancel()
        probes = list(self._probes.values())
        for probe in probes:
            probe.cancel()
        if probes:
            await asyncio.wait(probes)

    def examine(self, member: Member, network: Network, inputs: Inputs) -> None:
        """Take a worker out of use until a probe of it comes back in order."""
        if member in self._probes or not self._running:
            return
        if member.condition == "up":
            member.condition = "down"
            self._changed(member)
            self.mind_outage()
        sample = {name: _noise_like(values[:1]) for name, values in inputs.items()}
        self._probes[member] = _loop().create_task(self._probe(member, network, sample))

    def mind_outage(self) -> None:
        """Start or stop the clock of an outage, after workers came or went."""
        if self._pool.up and self._outage is not None:
            self._outage.cancel()
            self._outage = None
        elif not self._pool.up and self._outage is None:
            self._outage = _loop().call_later(self._outage_s, self._lost)

    async def _probe(self, member: Member, network: Network, sample: Inputs) -> None:
        pause = self._first_pause_s
        while not await self._is_well(member, network, sample):
            self._judged(member, False)
            if member.condition == "leaving":  # nobody will need it again
                del self._probes[member]
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        del self._probes[member]
        if member.condition == "down":
            member.condition = "up"
            self._changed(member)
            self.mind_outage()
        self._judged(member, True)

    async def _is_well(self, member: Member, network: Network, sample: Inputs) -> bool:
        try:
            async with asyncio.timeout(self._patience_s(member, network)):
                output = await call_worker(member.worker, network.model, sample)
        except (BackendError, TimeoutError) as error:
            logger.warning("%s is down: %s", member.name, str(error) or "no answer")
            return False
        return bool(np.isfinite(output).all())


async def call_worker(worker: Worker, network: str, inputs: Inputs) -> np.ndarray:
    """Run a network on a worker; whatever goes wrong is a BackendError."""
    try:
        return await worker.run(network, inputs)
    except BackendError:
        raise
    except Exception as error:  # a defect of a backend is a broken worker: nobody waits for ever
        logger.exception("a call on %s was lost", worker.name)
        raise BackendError(f"{network} failed: {error}") from error


def _noise_like(values: np.ndarray) -> np.ndarray:
    """Pictures and latents of noise; timesteps and labels of 0: one broken task is not a worker."""
    if values.ndim == 1:
        return np.zeros_like(values)
    return np.random.default_rng(0).standard_normal(values.shape).astype(values.dtype)


def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()
