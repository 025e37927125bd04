"""The service runs without torch, and every import rule holds."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "training", "onnx", "diffusers", "transformers"}:
            raise ImportError(f"the service must not import {name}")

sys.meta_path.insert(0, Blocked())
import service
names = [m.name for m in pkgutil.walk_packages(service.__path__, "service.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""

NOTHING_AT_IMPORT = """
import threading
before = threading.active_count()
import service.app, service.cli
assert threading.active_count() == before, "a thread was started by an import"
"""


def run_python(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_imports_without_torch():
    num_modules = int(run_python(IMPORT_EVERYTHING))
    assert num_modules >= len(list((ROOT / "service").rglob("[a-z]*.py")))


def test_imports_start_nothing():
    run_python(NOTHING_AT_IMPORT)


def test_import_rules():
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [lint, "--no-cache"], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
