"""Which workers are well: those that failed are probed until they answer again.

A worker under examination gets no calls. Its probe is one row of noise in the shape of what it
failed on, which no sound network answers with NaN.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress

import numpy as np

from service.backends.base import BackendError, Worker
from service.engine.groups import Network
from service.engine.pool import Member

logger = logging.getLogger(__name__)

Inputs = Mapping[str, np.ndarray]

LONGEST_PAUSE_S = 4.0  # between probes: one that refuses calls is found soon after it is back


class Health:
    """Examines workers in the running event loop.

    `judged(member, well)` is called after each probe, `changed(member)` when a worker goes down or
    comes up. `patience_s(member, network)` is how long a probe may take.
    """

    def __init__(
        self,
        *,
        judged: Callable[[Member, bool], None],
        changed: Callable[[Member], None],
        patience_s: Callable[[Member, Network], float],
        first_pause_s: float = 0.25,
    ) -> None:
        self._judged = judged
        self._changed = changed
        self._patience_s = patience_s
        self._first_pause_s = first_pause_s
        self._probes: dict[Member, asyncio.Task[None]] = {}
        self._ill: set[Member] = set()
        self._news = asyncio.Event()
        self._running = True

    async def stop(self) -> None:
        """Probe no more."""
        self._running = False
        probes = list(self._probes.values())
        for probe in probes:
            probe.cancel()
        if probes:
            await asyncio.wait(probes)

    def examines(self, member: Member) -> bool:
        """Whether a worker is being probed."""
        return member in self._probes

    def examine(self, member: Member, network: Network, inputs: Inputs) -> None:
        """Take a worker out of use until a probe of it comes back in order."""
        if member in self._probes or not self._running:
            return
        if member.condition == "up":
            member.condition = "down"
            self._changed(member)
        sample = {name: _noise_like(values[:1]) for name, values in inputs.items()}
        probe = self._probe(member, network, sample)
        self._probes[member] = asyncio.get_running_loop().create_task(probe)

    def is_ill(self, member: Member) -> bool:
        """Whether the last probe of a worker failed."""
        return member in self._ill

    def hurry(self) -> None:
        """Probe now whoever waits for a next probe: something has changed."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _probe(self, member: Member, network: Network, sample: Inputs) -> None:
        pause, well = self._first_pause_s, False
        # What it no longer has cannot be asked of it, and is no reason to call it unwell.
        while member.worker.serves(network.model):
            well = await self._is_well(member, network, sample)
            if well:
                break
            self._ill.add(member)
            self._judged(member, False)
            if member.condition == "leaving":  # nobody will need it again
                self._forget(member)
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._news.wait()
            pause = min(2 * pause, LONGEST_PAUSE_S)
        self._forget(member)
        if member.condition == "down":
            member.condition = "up"
            self._changed(member)
        self._judged(member, well)

    def _forget(self, member: Member) -> None:
        del self._probes[member]
        self._ill.discard(member)

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
