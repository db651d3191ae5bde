"""Workers that die at any moment of a program's life: while it loads, reads, writes, or has just begun.

About 3 minutes where llama-cpp-python was built with RPC.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time

import pytest

from tests.rpc_workers import lenders, needs_rpc

pytestmark = [pytest.mark.stress, needs_rpc]
N_DEATHS = 40
ANSWER = ("run", "--raw", "--no-speculative", "--temperature", "1", "-n", "1000", "The river")


def test_a_program_ends_with_one_line_whenever_a_worker_dies() -> None:
    chance = random.Random(0)
    codes = []
    with lenders(2) as workers:
        command = [sys.executable, "-m", "eftlite", *ANSWER, "--rpc", ",".join(worker.endpoint for worker in workers)]
        for _ in range(N_DEATHS):
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
                time.sleep(chance.uniform(0.5, 3.0))
                victim = chance.choice(workers)
                victim.kill()
                began = time.monotonic()
                try:
                    _, err = program.communicate(timeout=30)
                finally:
                    program.kill()  # one that hangs would be waited for
            assert program.returncode == 0 or time.monotonic() - began < 10, "it may have had to import first"
            lines = err.strip().splitlines()
            codes.append(program.returncode)
            if program.returncode == 0:
                assert not lines, err
            else:
                assert program.returncode == 1, err
                assert len(lines) == 1, err
                assert lines[0].startswith("error: RPC worker "), err
                assert victim.endpoint in lines[0], "while it loads the other one may be named as well"
            victim.start()
    assert codes.count(1) >= N_DEATHS // 4, "most should be hit"
