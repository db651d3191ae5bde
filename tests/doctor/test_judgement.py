"""What figures mean: ends, speeds, worth and the verdict, on figures made up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from eftlite.available import Available
from eftlite.costs import CostCurve, Costs
from eftlite.doctor import ends, speed, worth
from eftlite.doctor.case import Case, NotHereError
from eftlite.doctor.child import ChildDiedError
from eftlite.doctor.findings import OK, PROBLEM, WARNING, Finding, Report, Section
from eftlite.doctor.measuring import Measured, measure
from eftlite.doctor.soundness import fit
from eftlite.doctor.walking import Answered, Ended
from eftlite.errors import InputError
from eftlite.family import bundled_family
from eftlite.memory import Gpu, Need, Part
from eftlite.placement import Placement
from eftlite.settings import Delta, Family, ModelSettings
from tests.doctor.ill import BUILD, HERE, examined, found

CASE = Case(Family("f", "b", (Delta("d", "t", "r"),)), ModelSettings(), naming="--family f.toml")
PLACED = Placement(4096, {}, {}, 1 << 30, Available(8 << 30), ())
ANSWER = Answered(100, True, 20.0, 30.0, 20, 30, 0, 80.0)


def measured(base_s: float = 0.1, small_s: float = 0.01, **more: Any) -> Measured:
    """A family whose batches cost what a single token costs up to a size of 8."""
    seconds = {"base": base_s, "tuned": small_s, "reference": small_s}
    curves = {name: CostCurve.of({1: s, 8: s * 1.1, 16: s * 2}) for name, s in seconds.items()}
    price = Costs(curves, ("base", "reference"), "tuned")
    return replace(Measured(curves, price, PLACED, "base", "tuned", answers=(ANSWER,)), **more)


def ended(*probabilities: float, stray: tuple[str, ...] = (), n_tokens: int = 20) -> tuple[Ended, ...]:
    return tuple(Ended(n_tokens, ended=True, probability=p, stray=stray) for p in probabilities)


# ---- ends


@pytest.mark.parametrize(("probabilities", "level"), [((0.9, 0.4), OK), ((0.6, 0.3), WARNING), ((0.1, 0.05), PROBLEM)])
def test_how_surely_answers_end(probabilities: tuple[float, ...], level: str) -> None:
    (finding,) = ends.findings(measured(ends=ended(*probabilities)), CASE)
    assert finding.level == level
    assert bool(finding.fix) == (level != OK)


def test_a_tuned_model_that_never_ends() -> None:
    (finding,) = ends.findings(measured(ends=(Ended(192, False, 0.0, ()),) * 3), CASE)
    assert finding.level == PROBLEM
    assert "none of 3 of the tuned model's own ended within 192 tokens" in finding.text
    (finding,) = ends.findings(measured(ends=ended(0.9, stray=("<|eot|>",))), CASE)
    assert "writes <|eot|> where it should end" in finding.text


def test_empty_answers_are_a_warning() -> None:
    empty = replace(ANSWER, n_tokens=1)
    _, finding = ends.findings(measured(answers=(ANSWER, empty), ends=ended(0.9)), CASE)
    assert (finding.name, finding.level) == ("empty answers", WARNING)


# ---- speed


def test_speeds_by_hand() -> None:
    found_ = speed.speeds(measured(), 0.8)
    assert (found_.base, found_.tuned) == pytest.approx((10.0, 100.0))
    assert found_.plain == pytest.approx(1 / 0.12)
    assert found_.drafted > 2 * found_.plain
    assert 4 <= found_.n_draft <= 8
    assert speed.speeds(measured(), 0.0).n_draft == 0
    assert speed.speeds(measured(), 0.0).drafted == pytest.approx(1 / 0.12)


def test_what_users_see_decides_how_fast_it_is() -> None:
    """Drafts lift it above reading speed."""
    slow = measured(base_s=0.25)
    levels = {finding.name: finding.level for finding in speed.findings(slow, CASE)}
    assert levels["EFT"] == OK
    at_odds = replace(slow, answers=(replace(ANSWER, acceptance=0.0),))
    by_name = {finding.name: finding for finding in speed.findings(at_odds, CASE)}
    assert by_name["EFT"].level == WARNING
    assert by_name["EFT"].fix == "eftlite bench --family f.toml"
    assert "drafts would not pay" in by_name["EFT"].text


def test_a_pair_that_is_not_small() -> None:
    by_name = {finding.name: finding for finding in speed.findings(measured(base_s=0.01, small_s=0.01), CASE)}
    assert by_name["pair"].level == WARNING
    assert "67%" in by_name["pair"].text
    assert "pair" not in {finding.name for finding in speed.findings(measured(), CASE)}


def test_random_weights_have_no_acceptance_and_no_files() -> None:
    shapes = replace(CASE, random_weights=True)
    by_name = {finding.name: finding for finding in speed.findings(measured(base_s=2.0, answers=()), shapes)}
    assert "if 60% of drafted tokens stand" in by_name["EFT"].text
    assert by_name["EFT"].fix == ""


def test_figures_that_are_not_the_machines_own() -> None:
    by_name = {finding.name: finding for finding in speed.findings(measured(busy=0.5, stale=2.0), CASE)}
    assert by_name["load"].level == WARNING
    assert "50% of the processor" in by_name["load"].text
    by_name = {finding.name: finding for finding in speed.findings(measured(stale=2.0), CASE)}
    assert by_name["curves"].level == WARNING
    assert by_name["curves"].fix.startswith("rm ")
    names = {finding.name for finding in speed.findings(measured(busy=0.2, stale=1.4), CASE)}
    assert names == {"members", "EFT"}


def test_memory_in_words() -> None:
    assert fit(PLACED).text == "Takes 1.0 GiB of 8.0 GiB of main memory, with 4096 tokens of context"
    part = Part(weights=3 << 30)
    on_gpu = replace(PLACED, needs={"base": Need({"CPU": Part(), "CUDA0": part})}, gpus=(Gpu("CUDA0", 4 << 30),))
    assert "3.0 GiB of 4.0 GiB on CUDA0" in fit(on_gpu).text
    short = fit(replace(PLACED, notes=("context of 512 tokens, not 4096: memory is short",)))
    assert (short.level, "memory is short" in short.text) == (WARNING, True)


# ---- worth


@pytest.mark.parametrize(
    ("answer", "level", "words"),
    [
        (ANSWER, OK, "worth a try: it changes 20% of the tuned model's tokens and 30% of the base's"),
        (replace(ANSWER, changed_tuned=2, tv_tuned=5.0), WARNING, "the tuned model alone is as good"),
        (replace(ANSWER, changed_tuned=2, tv_tuned=5.1), OK, "worth a try"),
        (replace(ANSWER, changed_tuned=3, tv_tuned=1.0), OK, "worth a try"),
        (replace(ANSWER, changed_base=1, tv_base=1.0), WARNING, "the base alone is as good"),
        (replace(ANSWER, changed_base=1, tv_base=1.0, changed_tuned=0, tv_tuned=0.0), WARNING, "base and tuned agree"),
    ],
)
def test_recommendations(answer: Answered, level: str, words: str) -> None:
    *_, advice = worth.findings(measured(answers=(answer,)), CASE)
    assert (advice.name, advice.level) == ("recommendation", level)
    assert words in advice.text
    assert bool(advice.fix) == (level == WARNING)


def test_tokens_that_nobody_wanted_are_the_mark_of_no_pair() -> None:
    *_, advice = worth.findings(measured(answers=(replace(ANSWER, unwanted=6),)), CASE)
    assert (advice.level, advice.fix) == (WARNING, "eftlite inspect --family f.toml")
    assert "probably not made from this reference" in advice.text
    *_, advice = worth.findings(measured(answers=(replace(ANSWER, unwanted=5),)), CASE)
    assert advice.level == OK


# ---- the whole


def test_levels_and_exit() -> None:
    warned = Section("a", "?", (Finding("x", OK, ""), Finding("y", WARNING, "")))
    broken = Section("b", "?", (Finding("z", PROBLEM, ""), Finding("x", OK, "")))
    assert (warned.level, broken.level, Section("c", "?", ()).level) == (WARNING, PROBLEM, OK)
    assert Report((warned,), "").sound
    assert not Report((warned, broken), "").sound
    assert Report((broken,), "v").as_json()["sections"]["b"]["findings"][0]["name"] == "z"


def test_a_case_that_cannot_be_made_is_a_finding() -> None:
    def unusable() -> Case:
        raise InputError("--tuned: expected a GGUF file", "EFT needs three")

    report = examined(unusable)
    assert found(report, "family").level == PROBLEM
    assert "EFT needs three" in found(report, "family").text

    def elsewhere() -> Case:
        raise NotHereError("org/repo:Q8_0: not on this machine yet", "eftlite pull --preset p")

    assert found(examined(elsewhere), "family").fix == "eftlite pull --preset p"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ChildDiedError("The process that computes died of SIGKILL"), "died of SIGKILL while the family was measured"),
        (InputError("n_ctx: expected less"), "n_ctx: expected less"),
        (ZeroDivisionError("division by zero"), "Could not be looked at: ZeroDivisionError"),
    ],
)
def test_measuring_that_fails_is_a_finding(error: Exception, words: str) -> None:
    def call(function: Any, *arguments: Any, **_: Any) -> Any:
        if function is measure:
            raise error
        return BUILD

    report = examined(Case(bundled_family(), ModelSettings(), bundled=True), call=call)
    assert found(report, "loading").level == PROBLEM
    assert words in found(report, "loading").text
    assert words in report.verdict
    assert [section.key for section in report.sections] == ["installation", "family"]


def test_figures_that_make_no_sense_leave_the_other_sections() -> None:
    broken = measured(answers=(replace(ANSWER, tv_tuned=float("nan"), n_tokens=-1),), ends=ended(0.9))

    def call(function: Any, *arguments: Any, **_: Any) -> Any:
        return broken if function is measure else BUILD

    report = examined(Case(bundled_family(), ModelSettings(), bundled=True), call=call)
    assert [section.key for section in report.sections] == ["installation", "family", "speed", "worth"]


def test_a_llama_that_does_not_work_is_not_imported_for_the_family() -> None:
    def call(function: Any, *arguments: Any, **_: Any) -> Any:
        assert function is not measure
        raise ChildDiedError("died", illegal_instruction=True)

    report = examined(Case(bundled_family(), ModelSettings()), HERE, call=call)
    assert [section.key for section in report.sections] == ["installation"]
    assert "compiled for another processor" in report.verdict
