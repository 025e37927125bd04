"""What calls cost before anybody has asked for one: a short measurement at the start.

One worker of each kind of device calls every network with batches that double while a row gets
cheaper by it. It is a beginning only: costs are learnt from every later call.
"""

import asyncio
from collections.abc import Callable, Mapping

import numpy as np

from service.backends.base import BackendError, Worker
from service.core.tensors import Signature
from service.engine.costs import CostTable
from service.engine.groups import Network
from service.engine.pool import Pool

_BUDGET_S = 1.0  # of the time until the service is ready, for all networks of a device
_MOST_ROWS = 8


async def profile(
    pool: Pool, networks: Mapping[str, Signature], costs: CostTable, clock: Callable[[], float]
) -> None:
    """Fill the table for those of these networks that it lacks.

    A worker that fails is left for the first request.
    """
    kinds = {member.worker.device: member.worker for member in pool}
    await asyncio.gather(
        *(
            _profile(worker, _unknown(worker, networks, costs), costs, clock)
            for worker in kinds.values()
        )
    )


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
        try:
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
        except BackendError:
            return


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
