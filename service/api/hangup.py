"""Work that nobody waits for any more is not done."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from starlette.types import Receive

from service.errors import ClientGone

T = TypeVar("T")


async def unless_hung_up(work: Coroutine[None, None, T], receive: Receive) -> T:
    """Await `work`; cancel it and raise ClientGone as soon as the client hangs up.

    The request's body must have been read: what `receive` then has to say is the hang-up.
    """
    working = asyncio.ensure_future(work)
    hanging_up = asyncio.ensure_future(_hung_up(receive))
    both = {working, hanging_up}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone("The client hung up")
    finally:
        for future in both:
            future.cancel()
        await asyncio.gather(*both, return_exceptions=True)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
