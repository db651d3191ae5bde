"""Distributions as pip leaves them: modules, METADATA and entry points in a folder on the path."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from eftlite import plugins


def write_distribution(
    folder: Path,
    name: str,
    entry_points: Mapping[str, Mapping[str, str]],
    modules: Mapping[str, str] | None = None,
    version: str = "1.0",
    summary: str = "A test",
) -> Path:
    """Install into ``folder``; returns where the description is.

    Args:
        entry_points: by group, what each name stands for.
        modules: texts by name.
    """
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True)
    for module, text in (modules or {}).items():
        (folder / f"{module}.py").write_text(text, encoding="utf-8")
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: {summary}\n"
    (about / "METADATA").write_text(metadata, encoding="utf-8")
    lines = []
    for group, points in entry_points.items():
        lines += [f"[{group}]", *(f"{point} = {value}" for point, value in points.items()), ""]
    (about / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    forget()
    return about


@contextmanager
def on_path(folder: Path) -> Iterator[Path]:
    """Python finds what is in the folder, and has forgotten it afterwards."""
    sys.path.insert(0, str(folder))
    forget()
    try:
        yield folder
    finally:
        sys.path.remove(str(folder))
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]
        forget()


def forget() -> None:
    """Look at what is installed, and warn, as a new process would."""
    importlib.invalidate_caches()
    plugins.installed.cache_clear()
    plugins.report.cache_clear()
