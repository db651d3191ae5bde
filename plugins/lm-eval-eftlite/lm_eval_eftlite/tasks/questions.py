"""Documents and scores of the tasks beside this file, from the questions that ``eftlite demo`` asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset, DatasetDict

from eftlite.demo.scoring import Question, contains, load_questions

N_CHOICES = 4


def facts(**_: Any) -> DatasetDict:
    """Single questions that ask for facts, each as {"question", "facts"}."""
    return _test([{"question": one.text, "facts": list(one.facts)} for one in _questions()])


def choices(**_: Any) -> DatasetDict:
    """Questions for one fact, each with three others' answers beside the right one, which is the first."""
    asked = [one for one in _questions() if one.kind == "single" and len(one.facts) == 1]
    known = sorted({one.facts[0] for one in asked})
    documents = []
    for number, one in enumerate(asked):
        wrong = [fact for fact in known if fact != one.facts[0]]
        others = [wrong[(number + i) % len(wrong)] for i in range(N_CHOICES - 1)]
        documents.append({"question": one.text, "choices": [*one.facts, *others]})
    return _test(documents)


def texts(**_: Any) -> DatasetDict:
    """Questions with their answers as plain texts."""
    return _test([{"text": f"{one.text} {' '.join(one.facts)}."} for one in _questions()])


def scores(document: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether an answer holds every fact, as ``eftlite demo`` counts it."""
    return {"facts": float(all(contains(results[0], fact) for fact in document["facts"]))}


def _questions() -> list[Question]:
    return [one for one in load_questions() if one.facts and len(one.messages) == 1]


def _test(documents: list[dict[str, Any]]) -> DatasetDict:
    return DatasetDict({"test": Dataset.from_list(documents)})
