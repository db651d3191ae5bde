"""lm-evaluation-harness with eftlite's models.

model (the harness's model class) · scoring, generating (its two kinds of requests) · command (``eftlite eval``).
"""

from __future__ import annotations

import sys
from pathlib import Path

TASKS = Path(__file__).parent / "tasks"


def register() -> None:
    """Make ``--model eftlite`` known to the harness, which finds it by its entry point only after release 0.4.13."""
    import lm_eval.models  # noqa: F401  # registers the harness's own, which must come first
    from lm_eval.api.registry import model_registry

    if "eftlite" not in model_registry:
        model_registry.register("eftlite", target="lm_eval_eftlite.model:EFTLM")


def main() -> None:
    """The harness's own command with ``--model eftlite``, and with the tasks of this plugin."""
    from lm_eval.__main__ import cli_evaluate

    register()
    given = {word.partition("=")[0] for word in sys.argv}
    if given & {"--tasks", "-t"} and "--include_path" not in given:
        sys.argv += ["--include_path", str(TASKS)]
    cli_evaluate()
