"""What calls cost before anybody has asked for one: a short measurement at the start.

One worker of each kind of device calls every network with batches that double while a row gets
cheaper by it. It is a beginning only: costs are learnt from every later call.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import numpy as np

from service.backends.base import BackendError, Worker
from service.core.tensors import Signature
from service.engine.costs import CostTable
from service.engine.groups import Network
from service.engine.pool import Pool

_BUDGET_S = 1.0  # of the time until the service is ready, for all networks of a device
_MOST_ROWS = 8
_LAST_PATIENCE = 6  # first calls may compile or allocate


async def profile(
    pool: Pool,
    networks: Mapping[str, Signature],
    costs: CostTable,
    clock: Callable[[], float],
    patience_s: float,
) -> None:
    """Fill the table for those of these networks that it lacks.

    What a worker that fails or takes longer than `patience_s` has not shown, another of its kind
    is asked for, the last one with more patience; what none shows is left for the first request.
    """
    kinds: dict[str, list[Worker]] = {}
    for member in pool.up or pool:
        kinds.setdefault(member.worker.device, []).append(member.worker)
    await asyncio.gather(
        *(_profile_kind(kind, networks, costs, clock, patience_s) for kind in kinds.values())
    )


async def _profile_kind(
    workers: Sequence[Worker],
    networks: Mapping[str, Signature],
    costs: CostTable,
    clock: Callable[[], float],
    patience_s: float,
) -> None:
    for worker in workers:
        unknown = _unknown(worker, networks, costs)
        factor = _LAST_PATIENCE if worker is workers[-1] else 1
        with suppress(TimeoutError, BackendError):
            async with asyncio.timeout(factor * patience_s):
                await _profile(worker, unknown, costs, clock)


def _unknown(
    worker: Worker, networks: Mapping[str, Signature], costs: CostTable
) -> Mapping[str, Signature]:
    """The networks that a worker has and that its kind was never seen to call."""
    return {
        name: signature
        for name, signature in networks.items()
        if worker.serves(name) and not costs.knows(worker.device, _example(name, signature))
    }


async def _profile(
    worker: Worker,
    networks: Mapping[str, Signature],
    costs: CostTable,
    clock: Callable[[], float],
) -> None:
    for name, signature in networks.items():
        network = _example(name, signature)
        budget_s = _BUDGET_S / len(networks)
        begun, rows = clock(), 1
        while rows <= min(_MOST_ROWS, costs.max_rows(worker.device, network, _MOST_ROWS)):
            inputs = sample_inputs(signature, rows)
            started = clock()
            await worker.run(name, inputs)  # the first call of a size allocates
            if clock() - started < budget_s:  # of a large model it must do
                started = clock()
                await worker.run(name, inputs)
            costs.observe(worker.device, network, rows, clock() - started)
            rows *= 2
            if clock() - begun > budget_s / 2:  # the next would take as long as all before
                break


def _example(name: str, signature: Signature) -> Network:
    return Network(name, signature.inputs[0].example)


def sample_inputs(signature: Signature, rows: int) -> dict[str, np.ndarray]:
    """Noise in the shape of a network's inputs, and zeros for its scalars."""
    generator = np.random.default_rng(0)
    return {
        tensor.name: generator.standard_normal((rows, *tensor.example)).astype(tensor.dtype)
        if tensor.shape
        else np.zeros(rows, dtype=tensor.dtype)
        for tensor in signature.inputs
    }
