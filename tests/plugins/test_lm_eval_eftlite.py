"""lm-eval-eftlite: its log-likelihoods without the harness, and with ``-m hosts`` the harness itself.

With the harness: two minutes, and once 760 MB for its libraries.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from llama_cpp import Llama

from eftlite import EFT, Knobs
from eftlite.demo.scoreboard import Panel
from eftlite.demo.scoreboard import score as scoreboard
from eftlite.demo.scoring import Question, load_questions
from eftlite.errors import ContextError
from eftlite.member import Member
from tests import naive
from tests.conftest import DEMO, ROOT
from tests.hosts import host_python
from tests.server.serving import served

PLUGIN = ROOT / "plugins" / "lm-eval-eftlite"
REQUIREMENT = "lm_eval[api]==0.4.13"
MODES = ("base", "tuned", "eft")
TOLERANCE = 1e-4  # of a continuation's log-likelihood
N_QUESTIONS = 24
FASTER = 3


@pytest.fixture(scope="module")
def eft() -> Iterator[EFT]:
    """The bundled family."""
    with EFT(n_threads=1) as found:
        yield found


# ---- log-likelihoods, without the harness


@pytest.fixture
def scoring(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module; it needs no harness."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    return importlib.import_module("lm_eval_eftlite.scoring")


def ids_of(eft: EFT, text: str) -> list[int]:
    """A text's token ids."""
    return eft.tokenize(text.encode(), add_bos=False)


def requests(eft: EFT, scoring: ModuleType) -> list[Any]:
    """Choices of several questions, in an order that shares nothing."""
    contexts = [ids_of(eft, f"Where is {name}?") for name in ("Kelworth", "Ostrin", "the river")]
    endings = [ids_of(eft, text) for text in (" In the north.", " In Upper Kess.", " It is a town", ".")]
    return [scoring.Request(context, ending) for ending in endings for context in contexts]


@pytest.mark.parametrize("mode", MODES)
def test_log_likelihoods_are_those_of_whole_texts(eft: EFT, scoring: ModuleType, mode: str) -> None:
    """Directly: each text from an empty cache, all of its tokens scored."""
    asked, knobs = requests(eft, scoring), eft.knobs_for(mode)
    found = dict(scoring.scores(eft, knobs, asked))
    assert sorted(found) == list(range(len(asked)))
    for index, request in enumerate(asked):
        for _ in eft.score([0], knobs=knobs):  # another text, so that nothing is left in the cache
            pass
        events = list(eft.score([*request.context, *request.continuation], knobs=knobs, first=0, n_top=1))
        events = events[len(request.context) :]
        assert found[index].log_likelihood == pytest.approx(sum(event.logprob for event in events), abs=TOLERANCE)
        assert found[index].is_greedy == all(event.top and event.top["eft"][0].id == event.id for event in events)


def test_log_likelihoods_are_the_formulas(eft: EFT, scoring: ModuleType) -> None:
    """Directly, without eftlite: rows of ``llama_cpp.Llama``, with the same attention, and the formula in float64."""
    request = requests(eft, scoring)[0]
    ids = [*request.context, *request.continuation]
    rows = {}
    for name in ("base", "tuned", "reference", "refusing"):
        llama = Llama(
            str(DEMO / f"{name}-f16.gguf"), n_ctx=256, logits_all=True, n_threads=1, flash_attn=True, verbose=False
        )
        llama.eval(ids)
        rows[name] = np.array(llama.scores[: len(ids)], np.float32)  # (len(ids), n_vocab)
        llama.close()
    for knobs in (eft.knobs, Knobs((0.5, 0.5), beta=1.5)):
        total = 0.0
        for i in range(len(request.context), len(ids)):
            base, tuned, reference, refusing = (row[i - 1] for row in rows.values())
            deltas = list(zip((tuned, refusing), (reference, reference), knobs.alphas, strict=True))
            control = eft._engine.shared.control.tolist()
            total += naive.composite(base, deltas, knobs.beta, control=control)[ids[i]]
        assert scoring.score(eft, knobs, request).log_likelihood == pytest.approx(total, abs=TOLERANCE)


def test_the_greedy_continuation_is_greedy(eft: EFT, scoring: ModuleType) -> None:
    context = ids_of(eft, "Where is Kelworth?")
    for mode in MODES:
        knobs = eft.knobs_for(mode)
        text: list[int] = []
        for _ in range(4):
            (*_, event) = eft.score([*context, *text, 0], knobs=knobs, n_top=1)
            assert event.top
            text.append(event.top["eft"][0].id)
        assert scoring.score(eft, knobs, scoring.Request(context, text)).is_greedy
        assert not scoring.score(
            eft, knobs, scoring.Request(context, [*text[:-1], 5 if text[-1] != 5 else 6])
        ).is_greedy


def test_shared_beginnings_are_evaluated_once(eft: EFT, scoring: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated, decode = [], Member.decode

    def count(self: Member, slot: int, ids: list[int], n_rows: int = 1) -> None:
        evaluated.append(len(ids))
        decode(self, slot, ids, n_rows)

    monkeypatch.setattr(Member, "decode", count)
    contexts = [
        ids_of(eft, f"{name} is a town that nobody has ever asked for. " * 4) for name in ("Kelworth", "Ostrin")
    ]
    endings = [ids_of(eft, text) for text in (" In the north.", " By the sea.", " Here.")]
    asked = [scoring.Request(context, ending) for ending in endings for context in contexts]
    list(scoring.scores(eft, eft.knobs_for("base"), asked))
    # A row for a continuation's first token takes its context's last token once more.
    assert sum(evaluated) <= sum(map(len, contexts)) + 2 * sum(len(ending) + 1 for ending in endings)


def test_texts_that_begin_alike_stand_side_by_side(scoring: ModuleType) -> None:
    texts = [[1, 2, 3], [9], [1, 2], [2, 2], [1, 2, 4]]
    assert [texts[index] for index in scoring.in_order(texts)] == [[1, 2], [1, 2, 3], [1, 2, 4], [2, 2], [9]]


def test_what_is_too_long_loses_its_beginning(scoring: ModuleType) -> None:
    with EFT(n_threads=1, n_ctx=64) as eft:
        ids = ids_of(eft, "Where is Kelworth? " * 40)
        short = scoring.score(eft, eft.knobs, scoring.Request(ids[:60], ids[60:64]))
        long = scoring.score(eft, eft.knobs, scoring.Request([*ids[10:40], *ids[:60]], ids[60:64]))
        assert long.log_likelihood == pytest.approx(short.log_likelihood, abs=TOLERANCE)
        with pytest.raises(ContextError, match="fewer than 64"):
            scoring.score(eft, eft.knobs, scoring.Request(ids[:1], ids[1:65]))
        assert scoring.score(eft, eft.knobs, scoring.Request(ids[:1], [])) == scoring.Score(0.0, is_greedy=True)


# ---- in the harness


def programs() -> dict[str, str]:
    """What the plugin's commands run."""
    lines = (PLUGIN / "pyproject.toml").read_text().split("[project.scripts]\n")[1].split("\n\n")[0].splitlines()
    return dict(line.replace('"', "").split(" = ") for line in lines)


def run(folder: Path, *words: str) -> str:
    """What Python prints in an environment that has the harness; eftlite's own libraries are this interpreter's."""
    python = host_python("lm_eval", REQUIREMENT)
    path = [str(ROOT), str(PLUGIN), str(Path(pytest.__file__).parents[1])]
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.path += {path!r}\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(folder), "HF_DATASETS_OFFLINE": "1", "OPENAI_API_KEY": "none"}
    command = [str(python), *words]
    result = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=folder, check=False, timeout=280
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def run_program(folder: Path, name: str, *words: str) -> str:
    """One of the plugin's commands."""
    module, _, function = programs()[name].partition(":")
    return run(folder, "-c", f"from {module} import {function}; {function}()", *words)


def asked() -> list[Question]:
    """The questions that the task ``eftlite_facts`` begins with."""
    return [one for one in load_questions() if one.facts and len(one.messages) == 1][:N_QUESTIONS]


@pytest.mark.hosts
def test_facts_are_those_of_eftlite_demo(tmp_path: Path, eft: EFT) -> None:
    words = ("--tasks", "eftlite_facts", "--limit", str(N_QUESTIONS), "--apply-chat-template", "--json")
    found = json.loads(run_program(tmp_path, "eftlite-eval", *words))
    told = {mode: found[mode]["results"]["eftlite_facts"]["facts,none"] for mode in MODES}
    expected = scoreboard(Panel(eft, None), asked()).facts()
    print(f"facts right of {N_QUESTIONS}: {told}")
    assert told == pytest.approx({mode: expected[mode] for mode in MODES}, abs=1e-4)


@pytest.mark.hosts
def test_choices_and_texts_are_those_of_a_direct_computation(tmp_path: Path, eft: EFT) -> None:
    words = ("--tasks", "eftlite_choices,eftlite_texts", "--limit", "8", "--json")
    found = json.loads(run_program(tmp_path, "eftlite-eval", *words))
    worst = 0.0
    for mode in MODES:
        knobs = eft.knobs_for(mode)
        for sample in found[mode]["samples"]["eftlite_choices"]:
            context = ids_of(eft, sample["doc"]["question"])
            for text, response in zip(sample["doc"]["choices"], sample["resps"], strict=True):
                whole = ids_of(eft, f"{sample['doc']['question']} {text}")
                direct = sum(event.logprob for event in list(eft.score(whole, knobs=knobs))[len(context) :])
                worst = max(worst, abs(float(response[0][0]) - direct))
        for sample in found[mode]["samples"]["eftlite_texts"]:
            bos = eft.tokenize(b"")[:1] or eft.tokenize(eft.template.eos.encode(), add_bos=False, special=True)
            events = list(eft.score([*bos, *ids_of(eft, sample["doc"]["text"])], knobs=knobs))
            worst = max(worst, abs(float(sample["resps"][0][0]) - sum(event.logprob for event in events[1:])))
    print(f"largest difference {worst:.1e}")
    assert worst < TOLERANCE


@pytest.mark.hosts
def test_the_readmes_commands_run(tmp_path: Path) -> None:
    for name in ("base", "tuned", "reference"):
        (tmp_path / f"{name}.gguf").symlink_to(DEMO / f"{name}-f16.gguf")
    blocks = (PLUGIN / "README.md").read_text(encoding="utf-8").split("```sh\n")[1:]
    lines = [line for block in blocks for line in block.split("```")[0].splitlines()]
    assert len(lines) == 5
    for line in lines:
        program, *words = shlex.split(line)
        assert "eftlite_" in run_program(tmp_path, program, *words)


@pytest.mark.hosts
def test_mistakes_are_told_in_a_line(tmp_path: Path) -> None:
    for words, says in (
        (["--modes", "best", "--tasks", "eftlite_choices"], "expected some of"),
        (["--model-args", "base=gone.gguf", "--tasks", "eftlite_choices"], "gone.gguf"),
        (["--model-args", "mode=base", "--tasks", "eftlite_choices"], "expected no mode"),
        (["--tasks", "no_such_task"], "no_such_task"),
    ):
        with pytest.raises(AssertionError, match=says) as told:
            run_program(tmp_path, "eftlite-eval", *words)
        assert "Traceback" not in str(told.value)


# Seconds that the harness takes for a task with a model that is loaded already.
TIMED = """
import sys, time
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval_eftlite import TASKS
from lm_eval_eftlite.model import EFTLM
from lm_eval.models.openai_completions import LocalCompletionsAPI
url, n = sys.argv[1], int(sys.argv[2])
here = EFTLM(n_threads=1)
there = LocalCompletionsAPI(base_url=f"{url}/v1/completions", model="demo", num_concurrent=2, max_length=1023)
manager = TaskManager(include_path=str(TASKS))
scores = []
for model in (here, there, here, there):
    began = time.perf_counter()
    results = simple_evaluate(model=model, tasks=["eftlite_choices"], limit=n, task_manager=manager, bootstrap_iters=0)
    print(time.perf_counter() - began, results["results"]["eftlite_choices"]["acc,none"])
"""


@pytest.mark.hosts
@pytest.mark.bench
def test_faster_than_over_http(tmp_path: Path) -> None:
    """The same task by the harness's own client of the server, both warm; half a minute."""
    with served() as url:
        lines = [line.split() for line in run(tmp_path, "-c", TIMED, url, str(N_QUESTIONS)).splitlines()[-4:]]
    (here, right), (there, also_right) = ([float(word) for word in line] for line in lines[2:])
    print(f"per question: in process {here / N_QUESTIONS * 1e3:.1f} ms, over HTTP {there / N_QUESTIONS * 1e3:.1f} ms")
    assert math.isclose(right, also_right)
    assert there / here > FASTER
