"""Loads a family under limits that are set to shares of what it needs; a program, for limits hold for a whole process.

``python -m tests.limited '{"files": [base, tuned, reference], "n_ctx": …, "limits": [...]}'`` prints one line of JSON
for each way of loading: the limit, the weights mapped or read, what came of it, models opened and contexts left.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import llama_cpp

from eftlite.available import VARIABLE, available
from eftlite.errors import EFTError
from eftlite.loading import Engine, expected, load
from eftlite.placement import SLACK, TOLERANCE, Placement
from eftlite.settings import Delta, Family, ModelSettings

LIMITS = ("RLIMIT_AS", "RLIMIT_DATA", VARIABLE)


def needed(found: Placement, limit: str) -> list[float]:
    """What the first one, two, … members take of what is limited."""
    sizes = {
        "RLIMIT_AS": [need.address_space for need in found.needs.values()],
        "RLIMIT_DATA": [need.data for need in found.needs.values()],
        VARIABLE: [need.memory for need in found.needs.values()],
    }[limit]
    own = found.own + (0 if limit == VARIABLE else SLACK)
    return [own + sum(sizes[: n + 1]) for n in range(len(sizes))]


class Limit:
    """A limit that leaves so many bytes; taken away again at the end."""

    def __init__(self, name: str, n_bytes: float) -> None:
        self._name, self._n_bytes = name, n_bytes

    def __enter__(self) -> None:
        if self._name == VARIABLE:
            os.environ[VARIABLE] = str(self._n_bytes / 1e9)
            return
        import resource

        field = "address_space" if self._name == "RLIMIT_AS" else "data"
        which, high = getattr(resource, self._name), 1 << 46
        resource.setrlimit(which, (high, resource.RLIM_INFINITY))
        taken = high - getattr(available(), field)
        resource.setrlimit(which, (round(taken + self._n_bytes), resource.RLIM_INFINITY))

    def __exit__(self, *_: object) -> None:
        os.environ.pop(VARIABLE, None)
        if self._name != VARIABLE:
            import resource

            resource.setrlimit(getattr(resource, self._name), (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def outcome(family: Family, n_ctx: int, settings: ModelSettings, limit: Limit) -> dict[str, Any]:
    """Load and fill the contexts under a limit."""
    opened = 0

    def counted(path: bytes, params: Any) -> Any:
        nonlocal opened
        opened += 1
        return real(path, params)

    real = llama_cpp.llama_model_load_from_file
    setattr(llama_cpp, "llama_model_load_from_file", counted)  # noqa: B010  # the binding has no types
    try:
        with limit:
            engine = load(family, n_ctx, 1, settings)
            _fill(engine, n_ctx)
            engine.close()
    except EFTError as error:
        return {"error": type(error).__name__, "text": str(error), "opened": opened}
    finally:
        setattr(llama_cpp, "llama_model_load_from_file", real)  # noqa: B010  # as above
    return {"error": None, "text": "", "opened": opened}


def _fill(engine: Engine, n_ctx: int) -> None:
    for member in engine.ensemble.members:
        member.decode(0, [1] * (n_ctx - member.max_rows), 0)
        member.decode(0, [1] * member.max_rows, member.max_rows)


def main() -> None:
    """Try every limit at every share: "at K" is half-way into the K-th load, a number is that much of all of it."""
    os.environ["GGML_NO_BACKTRACE"] = "1"  # an abort should end the process, not start a debugger
    task = json.loads(sys.argv[1])
    family = Family("limited", task["files"][0], (Delta("d", *task["files"][1:]),))
    for name in task["limits"]:
        for use_mmap in (True, False):
            settings = ModelSettings(n_threads=1, type_k="f16", type_v="f16", use_mmap=use_mmap)
            steps = [0.0, *needed(expected(family, {}, settings, task["n_ctx"], 1), name)]
            for share in task["shares"]:
                at = (steps[share - 1] + steps[share]) / 2 if isinstance(share, int) else share * steps[-1] * TOLERANCE
                came = outcome(family, task["n_ctx"], settings, Limit(name, at))
                print(json.dumps({"limit": name, "mapped": use_mmap, "share": share, **came}), flush=True)


if __name__ == "__main__":
    main()
