"""Other programs in environments of their own, made at first use and kept below ``.hosts/``.

Their libraries are large and contradict each other and ours, so none of them is installed beside eftlite.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

HOSTS = Path(__file__).resolve().parents[1] / ".hosts"


def host_python(name: str, *requirements: str) -> Path:
    """The Python of an environment in which these are installed."""
    folder = HOSTS / name
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    stamp = folder / "installed.json"
    wanted = json.dumps([sys.version, *requirements])
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        venv.create(folder, clear=True, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
        subprocess.run(command, check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return python
