"""Does this build of llama.cpp survive its own AMX code? Tried once for each installation, in a child process.

GCC before 13 compiles ``_tile_loadconfig`` as if it read 8 bytes instead of 64, drops the rest of the tile
configuration as dead stores, and the first quantized matrix product ends the process with a segmentation fault. The
binding is compiled on the user's machine, so Debian 12 or Ubuntu 22.04 on a Xeon of 2023 or later is enough. Where the
trial dies, weights stay out of llama.cpp's extra buffer types (AMX, and repacked weights with it).

Knows a build and a file; never why a person loads a model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import llama_cpp

from eftlite.places import cache_folder

TIME_LIMIT_S = 30
_TRIAL = """
import sys, llama_cpp as C
keep = C.llama_log_callback(lambda level, text, data: None)
C.llama_log_set(keep, None)
model = C.llama_model_load_from_file(sys.argv[1].encode(), C.llama_model_default_params())
params = C.llama_context_default_params()
params.n_ctx, params.n_threads, params.n_threads_batch = 64, 1, 1
context = C.llama_init_from_model(model, params)
tokens = (C.llama_token * 2)(1, 2)
assert C.llama_decode(context, C.llama_batch_get_one(tokens, 2)) == 0
"""


def extra_buffers_work() -> bool:
    """Whether weights may be put into llama.cpp's extra buffer types; True at once where AMX is not compiled in."""
    if b"AMX_INT8 = 1" not in llama_cpp.llama_print_system_info():
        return True
    path, key = cache_folder() / "amx.json", _installation()
    known = _read(path)
    if key not in known:
        known[key] = _survives()
        _write(path, known)
    return known[key]


@cache  # a family loads several models, and its answer may have no place to be kept
def _survives() -> bool:
    """Decode two tokens of the bundled quantized model in a child; False when it dies or hangs."""
    with as_file(files("eftlite.demo").joinpath("real-q8_0.gguf")) as model:
        try:
            trial = subprocess.run(  # noqa: S603  # our own interpreter and script
                [sys.executable, "-c", _TRIAL, str(model)], capture_output=True, timeout=TIME_LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return False
    return trial.returncode == 0


def _installation() -> str:
    """Changes when the binding is installed again or the machine is another one."""
    library = Path(llama_cpp.__file__).parent / "lib"
    newest = max((entry.stat().st_mtime_ns for entry in library.iterdir()), default=0)
    return f"{llama_cpp.__version__} {newest} {library}"


def _read(path: Path) -> dict[str, bool]:
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(path: Path, known: dict[str, bool]) -> None:
    """Keep the answer; without a place to write to it is found out again next time."""
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(known))
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
