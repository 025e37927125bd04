"""How far a job is, between the engine that knows and the store that is told."""

import asyncio
from dataclasses import replace

from service.stores.base import Progress


class Reports:
    """Holds the latest report that was not yet taken; its preview is the latest there was."""

    def __init__(self) -> None:
        self._latest: Progress | None = None
        self._news = asyncio.Event()

    def put(self, report: Progress) -> None:
        """Replace what was reported."""
        if self._latest is not None and not report.preview:
            report = replace(report, preview=self._latest.preview)
        self._latest = report
        self._news.set()

    def put_back(self, report: Progress | None) -> None:
        """Undo a `take`; what was reported since then stays the latest."""
        if report is not None:
            newer = self._latest
            self._latest = report
            self.put(newer or report)

    async def take(self, timeout_s: float) -> Progress | None:
        """Wait for a report, or return None after so long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return None
        self._news.clear()
        report, self._latest = self._latest, None
        return report
