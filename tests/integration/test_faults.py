"""The soak, for some seconds: random faults under load, and nothing is lost. `make soak` runs it for half an hour."""
import os
import pathlib
import subprocess
import sys

import pytest

from harness.router import ROUTER_BIN

SOAK = pathlib.Path(__file__).resolve().parents[1] / "soak" / "soak.py"


@pytest.mark.parametrize("seed", os.environ.get("SOAK_SEEDS", "1").split())
def test_random_faults(seed):
    seconds = os.environ.get("FAULT_SECONDS", "15")
    done = subprocess.run([sys.executable, str(SOAK), "--seconds", seconds, "--seed", seed, "--asan-ok",
                           "--router", os.path.relpath(ROUTER_BIN)], capture_output=True, text=True,
                          timeout=float(seconds) + 120)
    print(done.stdout, done.stderr)
    assert done.returncode == 0 and done.stdout.endswith("all well\n")
