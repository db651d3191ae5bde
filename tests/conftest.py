"""Shared by all tests: directories of their own, no network, the bundled family, versions in pytest's header."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from eftlite import EFT

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "eftlite" / "demo"
SHOWN_VERSIONS = ("llama-cpp-python", "numpy", "numba", "click", "jinja2", "hypothesis")

# Derandomised: the same examples every time, so that a failure comes back. No deadline: kernels compile on first use.
hypothesis.settings.register_profile("eftlite", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("eftlite")


def pytest_report_header() -> str:
    """Versions that decide results."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in SHOWN_VERSIONS)


def own_directories(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Send everything that eftlite or a library keeps for the user into folder, and drop the developer's settings."""
    for name in list(os.environ):
        if name.startswith(("EFTLITE_", "HF_", "HUGGINGFACE_", "LLAMA_")):
            patch.delenv(name)
    for kind in ("CACHE", "CONFIG", "STATE", "DATA"):
        patch.setenv(f"EFTLITE_{kind}_DIR", str(folder / kind.lower()))
        patch.setenv(f"XDG_{kind}_HOME", str(folder / "xdg" / kind.lower()))
    patch.setenv("HF_HOME", str(folder / "huggingface"))
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("NO_COLOR", "1")
    patch.setenv("COLUMNS", "100")  # rich and click wrap at this width where there is no terminal


@pytest.fixture(scope="session", autouse=True)
def session_directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Directories for session fixtures, which are made before any test has its own."""
    with pytest.MonkeyPatch.context() as patch:
        own_directories(patch, tmp_path_factory.mktemp("user"))
        yield


@pytest.fixture(autouse=True)
def user_directories(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test's own user directories, empty at first."""
    folder = tmp_path_factory.mktemp("user")
    own_directories(monkeypatch, folder)
    return folder


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to another machine fails at once, unless the test is marked ``network``."""
    if request.node.get_closest_marker("network"):
        return
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        local = self.family not in {socket.AF_INET, socket.AF_INET6} or address[0] in {"127.0.0.1", "::1", "localhost"}
        if not local:
            pytest.fail(f"a test tried to reach {address}; tests run without network")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def demo_family() -> dict[str, Path]:
    """The bundled family's files by role: base, tuned, reference, real and further tunes (refusing)."""
    files = {path.name.rpartition("-")[0]: path for path in sorted(DEMO.glob("*.gguf"))}  # base-f16.gguf is the base
    missing = {"base", "tuned", "reference", "real"} - files.keys()
    assert not missing, f"the bundled family is not whole: {DEMO} lacks {', '.join(sorted(missing))}"
    return files


@pytest.fixture(scope="session")
def demo_eft() -> Iterator[EFT]:
    """The bundled family, loaded once; tests must leave its knobs as they found them."""
    from eftlite import EFT

    with EFT() as eft:
        yield eft
