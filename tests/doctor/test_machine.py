"""GPUs of machines that are not here, by what their systems would show."""

from __future__ import annotations

from pathlib import Path

import pytest

from eftlite.doctor.machine import Gpu, gpus, look


def nothing(command: list[str]) -> str:
    return ""


def on(root: Path, run: object = nothing) -> list[Gpu]:
    """The GPUs of a Linux machine with this file system."""
    return list(gpus("Linux", "x86_64", root, run))  # type: ignore[arg-type]  # a function of the test


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_none(tmp_path: Path) -> None:
    assert on(tmp_path) == []


def test_nvidia_by_its_own_program(tmp_path: Path) -> None:
    def run(command: list[str]) -> str:
        assert command[0] == "nvidia-smi"
        return "NVIDIA H200, 143771\nNVIDIA GB10, [N/A]\n"

    write(tmp_path, {"proc/driver/nvidia/version": "", "sys/class/drm/card0/device/vendor": "0x10de\n"})
    assert on(tmp_path, run) == [Gpu("NVIDIA", "NVIDIA H200", 143771 << 20), Gpu("NVIDIA", "NVIDIA GB10")]


@pytest.mark.parametrize("device", [True, False])
def test_nvidia_by_its_driver(device: bool, tmp_path: Path) -> None:
    """A container sees the driver in /proc, but no device unless it was given one."""
    text = "Model: \t\t NVIDIA GeForce RTX 3060\nIRQ:   120\n"
    write(tmp_path, {"proc/driver/nvidia/gpus/0000:01:00.0/information": text})
    if device:
        write(tmp_path, {"dev/nvidiactl": ""})
    assert on(tmp_path) == [Gpu("NVIDIA", "NVIDIA GeForce RTX 3060", usable=device)]


def test_nvidia_without_its_driver(tmp_path: Path) -> None:
    write(tmp_path, {"sys/class/drm/card0/device/vendor": "0x10de\n"})
    assert on(tmp_path) == [Gpu("NVIDIA", "GPU", usable=False)]


def test_amd_with_its_memory_and_not_its_connectors(tmp_path: Path) -> None:
    card = "sys/class/drm/card1/device"
    files = {f"{card}/vendor": "0x1002\n", f"{card}/mem_info_vram_total": "17163091968\n", "dev/kfd": ""}
    write(tmp_path, {**files, "sys/class/drm/card1-DP-1/device/vendor": "0x1002\n"})
    assert on(tmp_path) == [Gpu("AMD", "GPU", 17163091968)]


def test_intel_graphics_and_a_damaged_entry_are_nothing(tmp_path: Path) -> None:
    write(tmp_path, {"sys/class/drm/card0/device/vendor": "0x8086\n"})
    (tmp_path / "sys/class/drm/card1/device/vendor").mkdir(parents=True)
    assert on(tmp_path) == []


def test_apple(tmp_path: Path) -> None:
    assert [gpu.vendor for gpu in gpus("Darwin", "arm64", tmp_path, nothing)] == ["Apple"]
    assert list(gpus("Darwin", "x86_64", tmp_path, nothing)) == []


def test_this_machine() -> None:
    found = look()
    assert 0 < found.free_bytes <= found.total_bytes
    assert found.system
    if found.architecture == "x86_64":
        assert "sse2" in found.features
