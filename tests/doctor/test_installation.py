"""Question one: builds and machines of all kinds, compared; folders and kernels that are broken."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from eftlite import kernels as real_kernels
from eftlite.doctor import build, installation
from eftlite.doctor.build import Build, rebuild
from eftlite.doctor.child import ChildDiedError
from eftlite.doctor.findings import OK, PROBLEM, WARNING, Finding
from eftlite.doctor.machine import Gpu, Machine
from eftlite.errors import EngineError
from tests.doctor.ill import BUILD, HERE

ROOT = Path(__file__).resolve().parents[2]
BIG = Gpu("NVIDIA", "NVIDIA H200", 140 << 30)


def graphics(gpu: Gpu, machine: Machine = HERE, own: Build = BUILD) -> Finding:
    (found,) = installation.graphics(own, replace(machine, gpus=(gpu,)))
    return found


@pytest.mark.parametrize(
    ("gpu", "tools", "option", "words"),
    [
        (BIG, {"nvcc"}, "-DGGML_CUDA=on", "CPU only"),
        (BIG, set(), "-DGGML_CUDA=on", "install the CUDA toolkit first, nvcc is not there"),
        (Gpu("AMD", "GPU", 16 << 30), {"hipcc"}, "-DGGML_HIP=on", "AMD GPU (16.0 GiB) stays idle"),
        (Gpu("AMD", "GPU", 16 << 30), {"glslc"}, "-DGGML_VULKAN=on", "CPU only"),
        (Gpu("Apple", "Apple silicon"), set(), "-DGGML_METAL=on", "Apple silicon stays idle"),
    ],
)
def test_an_idle_gpu_is_a_problem_with_its_build(gpu: Gpu, tools: set[str], option: str, words: str) -> None:
    found = graphics(gpu, replace(HERE, tools=frozenset(tools)))
    assert found.level == PROBLEM
    assert option in found.fix
    assert words in found.text


def test_a_gpu_in_use_a_small_one_and_one_without_driver_are_none() -> None:
    device = {"name": "CUDA0", "description": "H200", "free_bytes": 100 << 30, "total_bytes": 140 << 30}
    used = graphics(BIG, own=replace(BUILD, gpu=True, devices=({"name": "CPU"}, device)))
    assert (used.level, "CUDA0, 100.0 GiB of 140.0 GiB free" in used.text) == (OK, True)
    assert graphics(Gpu("AMD", "GPU", 512 << 20)).level == OK
    assert graphics(replace(BIG, usable=False)).level == WARNING
    blind = graphics(BIG, own=replace(BUILD, gpu=True))
    assert "sees no such device" in blind.text


def test_a_rebuild_loses_nothing_that_the_build_has() -> None:
    own = replace(BUILD, rpc=True, amx_works=False, features=frozenset({"AVX"}), devices=({"name": "Vulkan0"},))
    amx, processor = installation.processor(own, HERE)
    assert (amx.level, processor.level) == (WARNING, WARNING)
    assert "AVX2" in processor.text
    for found in (amx, processor):
        assert 'CMAKE_ARGS="-DGGML_VULKAN=on -DGGML_RPC=on"' in found.fix
        assert 'CFLAGS="-mno-amx-tile' in found.fix


def test_amx_stays_out_of_a_build_that_was_made_without_it() -> None:
    machine = replace(HERE, features=HERE.features | {"amx-int8"}, tools=frozenset({"nvcc"}))
    assert "-mno-amx" in graphics(BIG, machine).fix
    assert "-mno-amx" not in graphics(BIG).fix


def test_unknown_features_are_no_warning() -> None:
    (found,) = installation.processor(BUILD, replace(HERE, features=frozenset()))
    assert found.level == OK
    assert "not known" in found.text


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
def test_the_command_says_what_it_means_to_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "a python"))
    (tmp_path / "a python").write_text("#!/bin/sh\nshift 2\necho $CMAKE_ARGS $*\n")
    (tmp_path / "a python").chmod(0o755)
    done = subprocess.run(rebuild(["GGML_CUDA"]), shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.split()[:2] == ["-DGGML_CUDA=on", "install"]
    assert done.stdout.split()[-1] == build.PINNED
    assert rebuild(["GGML_CUDA"], system="Windows").startswith('set "CMAKE_ARGS=-DGGML_CUDA=on" && ')


def test_the_pinned_binding_is_the_projects() -> None:
    assert f'"{build.PINNED}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ChildDiedError("died of SIGILL", illegal_instruction=True), "compiled for another processor"),
        (ChildDiedError("died of SIGSEGV", last_line="ggml: no"), "died of SIGSEGV (ggml: no)"),
        (EngineError("llama-cpp-python: expected 0.3.36, got 0.3.1"), "expected 0.3.36"),
        (RuntimeError("pipes are full"), "pipes are full"),
    ],
)
def test_a_llama_that_does_not_start_is_a_problem(error: Exception, words: str) -> None:
    def call(*_: Any, **__: Any) -> None:
        raise error

    section = installation.examine(lambda: HERE, call, lambda _: None)
    (found,) = (one for one in section.findings if one.name == "llama.cpp")
    assert found.level == PROBLEM
    assert words in found.text
    assert isinstance(error, RuntimeError) or found.fix.endswith(build.PINNED)
    assert {"versions", "memory", "kernels", "folders"} <= {one.name for one in section.findings}


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    (versions,) = installation.versions()
    assert versions.level == OK
    real = metadata.version

    def version(name: str) -> str:
        if name == "psutil":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    _, packages = installation.versions()
    assert packages.level == PROBLEM
    assert re.fullmatch(r"Not installed: psutil[<>=\d.,]+", packages.text)
    assert "-m pip install 'psutil" in packages.fix


@pytest.mark.parametrize("module", ["numpy", "psutil", "llama_cpp"])
def test_a_report_whatever_cannot_be_imported(module: str, tmp_path: Path) -> None:
    """Run as a user would, beside a module that fails."""
    (tmp_path / f"{module}.py").write_text(f"raise ImportError('{module} is broken')")
    command = [
        sys.executable,
        "-c",
        "import sys; sys.argv[1:] = ['doctor', '--quick']\nfrom eftlite.cli import main\nmain()",
    ]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("1. Is this installation sound?")
    assert f"{module} is broken" in " ".join(done.stdout.split())
    assert "Traceback" not in done.stdout + done.stderr


def test_a_machine_that_cannot_be_looked_at_leaves_the_rest() -> None:
    def look() -> Machine:
        raise OSError("no /proc")

    section = installation.examine(look, lambda *_, **__: BUILD, lambda _: None)
    assert [one.name for one in section.findings if one.level == PROBLEM] == ["memory"]
    assert {"versions", "llama.cpp", "kernels"} <= {one.name for one in section.findings}


def test_little_memory_is_a_warning() -> None:
    (found,) = installation.memory([], lambda: replace(HERE, free_bytes=500 << 20))
    assert found.level == WARNING


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("EFTLITE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    (found,) = installation.folders()
    assert (found.name, found.level) == ("cache", WARNING)
    assert found.fix.startswith("export EFTLITE_CACHE_DIR=")
    assert not (tmp_path / "cache").exists()


def test_kernels_that_compute_wrongly_or_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sound,) = installation.kernels()
    assert sound.level == OK

    class Wrong:
        class stats:  # noqa: N801  as numba names it
            cache_path = str(tmp_path / "file" / "kernels")

        value = float("nan")

        def __call__(self, _: object) -> float:
            return self.value

    (tmp_path / "file").write_text("no folder")
    wrong = Wrong()
    monkeypatch.setattr(real_kernels, "log_sum_exp", wrong)
    (found,) = installation.kernels()
    assert found.level == PROBLEM
    wrong.value = 2.0794415
    (found,) = installation.kernels()
    assert found.level == WARNING
    assert found.fix.startswith("export NUMBA_CACHE_DIR=")
