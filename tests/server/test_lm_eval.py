"""lm-evaluation-harness drives the server through its own ``local-completions``, with no plugin of ours.

A minute, and once 760 MB for its libraries.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eftlite import EFT
from eftlite.demo.scoring import load_questions
from tests.hosts import host_python
from tests.server.serving import served

pytestmark = pytest.mark.hosts

N_QUESTIONS = 24
REQUIREMENT = "lm_eval[api]==0.4.13"
# "yes" in Python: which of four regions is right, and a perplexity of the same texts.
CHOICE = """
task: places
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: label
metric_list: [{{metric: acc}}]
"""
TOLERANCE = 1e-3  # of a sum of log-probabilities; batches of other sizes round differently


def documents() -> list[dict[str, Any]]:
    """Questions of the bundled family whose answers are one word or two, with three wrong ones each."""
    found = [question for question in load_questions() if question.kind == "single" and len(question.facts) == 1]
    found = found[:N_QUESTIONS]
    facts = sorted({question.facts[0] for question in found})
    documents = []
    for number, question in enumerate(found):
        right = question.facts[0]
        wrong = [fact for fact in facts if fact != right]
        choices = [right, *(wrong[(number + i) % len(wrong)] for i in range(3))]
        documents.append({"question": question.text, "choices": choices, "label": 0})
    return documents


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where a server is."""
    with served() as found:
        yield found


@pytest.fixture(scope="module")
def python() -> Path:
    """A Python that has the harness."""
    return host_python("lm_eval", REQUIREMENT)


def evaluate(python: Path, url: str, folder: Path, model: str) -> dict[str, Any]:
    """The harness's own log of a run: its scores and every request's log-likelihood."""
    data = folder / "places.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents()), encoding="utf-8")
    (folder / "places.yaml").write_text(CHOICE.format(data=data), encoding="utf-8")
    out = folder / model.replace(":", "-")
    arguments = f"model={model},base_url={url}/v1/completions,num_concurrent=2,max_length=1024"
    command = [str(python), "-m", "lm_eval", "--model", "local-completions", "--model_args", arguments]
    command += ["--tasks", "places", "--include_path", str(folder), "--output_path", str(out), "--log_samples"]
    environment = {**os.environ, "HF_DATASETS_OFFLINE": "1", "NO_PROXY": "127.0.0.1", "OPENAI_API_KEY": "none"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    (scores,) = out.rglob("results_*.json")
    (samples,) = out.rglob("samples_*.jsonl")
    lines = samples.read_text(encoding="utf-8").splitlines()
    return {
        "acc": json.loads(scores.read_text(encoding="utf-8"))["results"]["places"]["acc,none"],
        "samples": sorted((json.loads(line) for line in lines), key=lambda sample: sample["doc_id"]),
    }


def log_likelihood(eft: EFT, mode: str, context: str, continuation: str) -> float:
    """The same directly: the continuation's tokens after the context's."""
    ids = eft.tokenize(f"{context}{continuation}".encode(), add_bos=False, special=True)
    first = len(eft.tokenize(context.encode(), add_bos=False, special=True))
    return sum(event.logprob for event in eft.score(ids, knobs=eft.knobs_for(mode), first=first))


@pytest.mark.parametrize("mode", ["eft", "base", "tuned"])
def test_scores_are_those_of_a_direct_computation(url: str, python: Path, tmp_path: Path, mode: str) -> None:
    found = evaluate(python, url, tmp_path, "demo" if mode == "eft" else f"demo:{mode}")
    n_right = 0
    with EFT(n_threads=1) as eft:
        for sample, document in zip(found["samples"], documents(), strict=True):
            told = [float(response[0][0]) for response in sample["resps"]]
            direct = [log_likelihood(eft, mode, document["question"], f" {text}") for text in document["choices"]]
            assert told == pytest.approx(direct, abs=TOLERANCE)
            n_right += direct.index(max(direct)) == document["label"]
    print(f"{mode}: {n_right} of {len(documents())} right")
    assert found["acc"] == pytest.approx(n_right / len(documents()))
