"""Inputs and results of jobs as files of a folder that all servers share."""

import os
import secrets
import time
from pathlib import Path

from service.stores.errors import StoreUnavailable

_PARTIAL = ".partial"


class SharedFolder:
    """Whole files or none. Names begin with the id of their job and a dot.

    Methods block; each raises StoreUnavailable when the folder does not work.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, name: str, data: bytes) -> None:
        """Keep a file; nobody sees a part of it, and it survives a power cut."""
        partial = self._path / f"{name}.{secrets.token_hex(4)}{_PARTIAL}"
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path / name)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise StoreUnavailable(f"The folder of jobs cannot be written: {error}") from error

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""
        try:
            return (self._path / name).read_bytes()
        except OSError as error:
            raise StoreUnavailable(f"The folder of jobs cannot be read: {error}") from error

    def delete(self, name: str) -> None:
        """Let go of a file, if it is there; what cannot be deleted now is swept later."""
        try:
            (self._path / name).unlink(missing_ok=True)
        except OSError:
            return

    def older_than(self, age_s: float) -> dict[str, list[str]]:
        """Names of files written so long ago, also partial ones, by the id of their job."""
        latest = time.time() - age_s
        found: dict[str, list[str]] = {}
        try:
            for entry in os.scandir(self._path):
                if entry.is_file() and entry.stat().st_mtime <= latest:
                    found.setdefault(entry.name.partition(".")[0], []).append(entry.name)
        except OSError as error:
            raise StoreUnavailable(f"The folder of jobs cannot be read: {error}") from error
        return found
