"""Speed of a family by llama-bench's conventions: base, tuned, plain EFT and speculative EFT side by side in one run.

Tests are called pp512 (reading 512 tokens), tg128 (making 128) and ``tg128 @ d1024`` (the same after 1024 others).
One warm-up, then repetitions interleaved over the contenders (A B C A B C), so that a drift of the machine hits all
alike. Tokenizing is never timed, making the law and drawing from it is; tg leaves the prompt out, and end tokens do
not end it. Whatever is synthetic is named in every row: random weights, random prompts, coins in place of a rule.

Knows families, clocks and numbers; what is compared is contest.py's, options and tables are cli/bench.py's.

Not guaranteed: that a text is worth reading. With random weights or a synthetic acceptance it is noise; else it runs on
past where an answer would end, and its acceptance with it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from eftlite.composite import Recipe
from eftlite.contest import Contender, Plan, Sample, Trial, contenders
from eftlite.costs import CostCurve
from eftlite.errors import EngineError, InputError
from eftlite.family import bundled_family
from eftlite.generate import Decoder, plain
from eftlite.llama import BINDING_VERSION, devices
from eftlite.loading import Engine, load
from eftlite.member import default_threads
from eftlite.noise import Noise
from eftlite.pace import seconds_per_token
from eftlite.sampling import Sampler
from eftlite.settings import Family, Limits, ModelSettings
from eftlite.speculative import speculative
from eftlite.template import BUILTIN, Template, has_bos
from eftlite.timing import costs, fresh_curve, member_curve

WARM_UP = 32  # tokens at most; a pace has found its length by then
_ROOM = 1024  # tokens for a question in its template, before there is a tokenizer to count them

Report = Callable[[str], None]
Row = dict[str, Any]


def run(
    family: Family,
    plan: Plan | None = None,
    settings: ModelSettings | Mapping[str, ModelSettings] | None = None,
    *,
    random_weights: bool = False,
    report: Report | None = None,
) -> list[Row]:
    """Measure a family; the rows are those of ``eftlite bench -o json``.

    Args:
        plan: pp512 and tg128 in every mode by default.
        settings: of every member, or by role.
        random_weights: the family is one of ``shapes.shape_family``: prompts are random too, and rows say it.
        report: told what is being measured.

    Raises:
        InputError: the plan does not fit the family, or the context does not hold a test.
        ModelFileError, VocabularyError, EngineError: as loading and decoding do.
    """
    return list(measure(family, plan, settings, random_weights=random_weights, report=report))


def measure(
    family: Family,
    plan: Plan | None = None,
    settings: ModelSettings | Mapping[str, ModelSettings] | None = None,
    *,
    random_weights: bool = False,
    report: Report | None = None,
) -> Iterator[Row]:
    """``run``, with each test's rows as soon as they are there."""
    plan, report = plan or Plan(), report or (lambda _: None)
    contenders(plan, family)  # so that what does not fit is refused before models are loaded
    needed = max(test.n_depth + test.n_prompt + test.n_gen for test in plan.tests) + _ROOM
    if plan.n_ctx and plan.n_ctx < needed - _ROOM:
        raise InputError(f"n_ctx: expected at least the {needed - _ROOM} tokens of the longest test, got {plan.n_ctx}")
    n_ctx = needed if plan.n_ctx is None else plan.n_ctx
    settings = ModelSettings() if settings is None else settings
    engine = load(family, n_ctx, 1, settings, lambda name, _: report(f"loading {name}"), plan.drafter_file)
    try:
        yield from Bench(engine, family, plan, random_weights, report).rows()
    finally:
        engine.close()


class Bench:
    """A loaded family on the stand."""

    def __init__(self, engine: Engine, family: Family, plan: Plan, random_weights: bool, report: Report) -> None:
        self._engine, self._family, self._plan = engine, family, plan
        self._random_weights, self._report = random_weights, report
        self._contenders = contenders(plan, family)
        self._texts = [] if random_weights else question_ids(engine, family, plan.questions)
        self._curves = self._measured_curves()
        self._typical: list[dict[str, CostCurve]] = []

    def rows(self) -> Iterator[Row]:
        """Measure test after test; a row for each contender."""
        for test in self._plan.tests:
            began = datetime.now(timezone.utc).isoformat(timespec="seconds")
            # A prompt is read in the same way however drafts are made.
            rivals = self._contenders if test.n_gen else list({one.mode: one for one in self._contenders}.values())
            self._repeat(test, rivals)
            rows = [self._row(test, contender) for contender in rivals]
            yield from ({**row, "test_time": began, **_ratios(row, rows)} for row in rows)

    def _repeat(self, test: Trial, rivals: Sequence[Contender]) -> None:
        """Warm everything up, then collect the samples, one of each contender in turn."""
        for contender in rivals:
            self._report(f"{test.name}, {contender.label}, warming up")
            self._sample(contender, test.shortened(WARM_UP), 0)
            contender.samples = []
        self._typical = []
        for repetition in range(self._plan.repetitions):
            for contender in rivals:
                self._report(f"{test.name}, {contender.label}, {repetition + 1} of {self._plan.repetitions}")
                contender.samples.append(self._sample(contender, test, repetition))
            if test.n_gen and any(contender.speculation for contender in rivals):
                self._typical.append(self._typical_curves())

    def _measured_curves(self) -> dict[str, CostCurve]:
        """Measured now: what the machine does today, not on the day when the user's cache folder learnt it."""
        if not any(contender.speculation for contender in self._contenders):
            return {}
        ensemble = self._engine.ensemble
        ensemble.clear(0)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "curves.json"
            return {
                member.name: member_curve(member, path, lambda name: self._report(f"timing {name}"))
                for member in ensemble.members
            }

    def _typical_curves(self) -> dict[str, CostCurve]:
        """What decoding costs between two repetitions; the shortest times would tell of a quieter machine.

        Medians, since a machine that has others to serve stumbles now and then.
        """
        ensemble = self._engine.ensemble
        ensemble.clear(0)
        return {member.name: fresh_curve(member, statistics.median) for member in ensemble.members}

    # ---- one repetition

    def _sample(self, contender: Contender, test: Trial, repetition: int) -> Sample:
        return self._make(contender, test, repetition) if test.n_gen else self._read(contender, test)

    def _read(self, contender: Contender, test: Trial) -> Sample:
        """Read a prompt as a first token needs it: by the members of the mode, with one row of logits each."""
        ensemble = self._engine.ensemble
        self._fill(self._filler(test.n_depth))
        ensemble.begin(0, [self._filler(test.n_depth + test.n_prompt)] * len(ensemble.members))
        needed = Recipe.of(contender.knobs, ensemble.roles).needed
        before, began = self._member_s(), time.perf_counter()
        ensemble.rows(0, needed)
        return Sample(time.perf_counter() - began, self._member_s(before))

    def _make(self, contender: Contender, test: Trial, repetition: int) -> Sample:
        """Make tokens; every member has read the text but for its last token, so that n tokens take n plain steps."""
        engine, sampling = self._engine, self._plan.sampling
        ids = self._filler(test.n_depth) + self._question(repetition)
        self._fill(ids[:-1])
        engine.ensemble.begin(0, [ids] * len(engine.ensemble.members))
        speaker, seed = engine.speaker, (sampling.seed or 0) + repetition
        sampler = Sampler(sampling, speaker, engine.shared.n_vocab, seed)
        decoder = Decoder(
            engine.ensemble, engine.composite, 0, lambda: contender.knobs, sampler, Noise(seed),
            Limits(max_tokens=test.n_gen), frozenset(), speaker.piece,
        )  # fmt: skip  # a table that reads across
        rounds = contender.rounds(decoder, self._curves, engine)
        before, began = self._member_s(), time.perf_counter()
        n_made = sum(1 for _ in (plain(decoder) if rounds is None else speculative(rounds)))
        seconds = time.perf_counter() - began
        sampler.close()
        if n_made != test.n_gen:
            raise EngineError(f"{test.name}: expected {test.n_gen} tokens, got {n_made}", "Try a larger context")
        drafter = None if rounds is None else rounds.drafter.member
        return Sample(seconds, self._member_s(before), drafter, decoder.statistics)

    def _fill(self, ids: Sequence[int]) -> None:
        """Bring every member's cache to exactly these tokens, so that nothing of them is timed."""
        ensemble = self._engine.ensemble
        if not ids:
            ensemble.clear(0)
            return
        ensemble.begin(0, [ids] * len(ensemble.members))
        for index in range(len(ensemble.members)):
            ensemble.advance(0, index)

    def _member_s(self, before: Mapping[str, float] | None = None) -> dict[str, float]:
        """Seconds that each member has spent in ``llama_decode``, in all or since ``before``."""
        return {m.name: m.seconds - (before or {}).get(m.name, 0.0) for m in self._engine.ensemble.members}

    def _filler(self, n: int) -> list[int]:
        """n tokens, the same ones each time: random, or the questions over and over."""
        if self._random_weights:
            return _random_ids(n, self._engine.shared.n_vocab, 0)
        return list(islice(cycle(token for text in self._texts for token in text), n))

    def _question(self, repetition: int) -> list[int]:
        """The end of the text that is continued: one token at least."""
        if self._random_weights:
            return _random_ids(1, self._engine.shared.n_vocab, 1 + repetition)
        return self._texts[repetition % len(self._texts)]

    # ---- rows

    def _row(self, test: Trial, contender: Contender) -> Row:
        """What a contender's samples say, in llama-bench's words and ours."""
        engine, samples = self._engine, contender.samples
        needed = Recipe.of(contender.knobs, engine.ensemble.roles).needed
        used = sorted({*needed, *(s.drafter for s in samples if s.drafter is not None)})
        members = [engine.ensemble.members[i] for i in used]
        models = list(dict.fromkeys(member.model for member in members))
        settings, n = models[0].settings, test.n_prompt or test.n_gen
        speeds, ns = [n / sample.seconds for sample in samples], [round(sample.seconds * 1e9) for sample in samples]
        row = {
            **self._machine,
            "model_filename": " + ".join(dict.fromkeys(file for member in members for file in member.files)),
            "model_type": " + ".join(model.description for model in models),
            "model_size": sum(model.n_bytes for model in models),
            "model_n_params": sum(model.n_params for model in models),
            "n_batch": settings.n_batch,
            "n_ubatch": settings.n_ubatch,
            "n_threads": settings.n_threads or default_threads(models[0]),
            "type_k": settings.type_k or "f16",
            "type_v": settings.type_v or "f16",
            "n_gpu_layers": settings.n_gpu_layers or 0,
            **test._asdict(),
            "avg_ns": round(statistics.mean(ns)),
            "stddev_ns": round(_deviation(ns)),
            "avg_ts": statistics.mean(speeds),
            "stddev_ts": _deviation(speeds),
            "samples_ns": ns,
            "samples_ts": speeds,
            "mode": contender.mode,
            "test": test.name,
            "seconds": self._breakdown(samples, needed),
            "synthetic": self._synthetic(test, contender),
            **_drafting(test, contender),
        }
        row["efficiency"] = self._efficiency(test, contender, needed, row["acceptance"], row["avg_ts"])
        return row

    @cached_property
    def _machine(self) -> Row:
        found = devices()
        cpus = [one["description"].strip() for one in found if one["name"] == "CPU"]
        gpus = [one["description"].strip() for one in found if one["name"] != "CPU"]
        return {
            "build_commit": f"llama-cpp-python {BINDING_VERSION}",
            "cpu_info": ", ".join(cpus),
            "gpu_info": ", ".join(gpus),
            "backends": ",".join(dict.fromkeys(one["name"].rstrip("0123456789") for one in found)),
        }

    def _breakdown(self, samples: Sequence[Sample], needed: Iterable[int]) -> dict[str, float]:
        """Mean seconds of each member that decoded, and "other": everything outside ``llama_decode``."""
        n, names = len(samples), [member.name for member in self._engine.ensemble.members]
        total = sum((Counter(sample.member_s) for sample in samples), Counter[str]())
        seconds = {name: total[name] / n for i, name in enumerate(names) if total[name] or i in needed}
        if not self._engine.ensemble.side_by_side:  # else members' seconds overlap
            seconds["other"] = statistics.mean(sample.seconds for sample in samples) - sum(seconds.values())
        return seconds

    def _synthetic(self, test: Trial, contender: Contender) -> Row | None:
        """What is synthetic about a row, None when nothing is."""
        made_up: Row = {"weights": f"random, {self._family.name}", "prompt": "random token ids"}
        found = made_up if self._random_weights else {}
        if contender.acceptance is not None and test.n_gen:
            found = {**found, "acceptance": contender.acceptance}
        return found or None

    def _efficiency(
        self, test: Trial, contender: Contender, needed: Iterable[int], acceptance: float | None, speed: float
    ) -> float | None:
        """Measured tokens per second over what the best draft length would give with no overhead at all.

        None where the curves cannot tell: after other tokens, which they were measured without, and for look-up,
        whose drafts come and go.
        """
        how = contender.speculation
        if how is None or not test.n_gen or test.n_depth or "lookup" in how.drafter:
            return None
        drafter = contender.samples[-1].drafter
        curves = {name: _median_curve([one[name] for one in self._typical]) for name in self._typical[0]}
        price = costs(self._engine.ensemble, needed, drafter, curves, (0.0, 0.0), how.rule)
        seconds = seconds_per_token(price, acceptance or 0.0, max(how.max_draft, how.n_draft or 0))
        return speed * (min(seconds) if how.n_draft is None else seconds[how.n_draft])


def _drafting(test: Trial, contender: Contender) -> Row:
    """What became of the drafts of all repetitions; acceptance is that of a token whose predecessors stood."""
    samples, how = contender.samples, contender.speculation if test.n_gen else None
    found = [sample.statistics.drafts for sample in samples if sample.statistics.drafts is not None]
    n_rounds, n_accepted = sum(drafts.n_rounds for drafts in found), sum(drafts.n_accepted for drafts in found)
    n_tried = sum(sum(drafts.tried_at) for drafts in found)
    lengths = sum((Counter(drafts.lengths) for drafts in found), Counter[int]())
    return {
        "speculation": how and samples[-1].statistics.speculation,
        "n_draft": how and how.n_draft,
        "n_drafted": sum(drafts.n_drafted for drafts in found) if found else None,
        "n_accepted": n_accepted if found else None,
        "acceptance": n_accepted / n_tried if n_tried else None,
        "tokens_per_verification": (n_accepted + n_rounds) / n_rounds if n_rounds else None,
        "draft_lengths": {str(n): lengths[n] for n in sorted(lengths)} if found else None,
    }


def _ratios(row: Row, rows: Sequence[Row]) -> Row:
    """Speed in comparison with other modes of the same test; None where they were not measured."""
    speeds = {other["mode"]: other["avg_ts"] for other in rows}
    return {f"ratio_to_{mode}": row["avg_ts"] / speeds[mode] if mode in speeds else None for mode in ("base", "eft")}


def _median_curve(curves: Sequence[CostCurve]) -> CostCurve:
    return CostCurve.of({n: statistics.median(curve.at(n) for curve in curves) for n, _ in curves[0].points})


def _deviation(values: Sequence[float]) -> float:
    """Standard deviation of a sample; 0 for one value, as in llama-bench."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _random_ids(n: int, n_vocab: int, seed: int) -> list[int]:
    """Of one seed, fewer ids are the beginning of more."""
    ids: list[int] = np.random.default_rng(seed).integers(0, n_vocab, n).tolist()
    return ids


def question_ids(engine: Engine, family: Family, texts: Sequence[str]) -> list[list[int]]:
    """Questions in the tuned model's template, which all members get."""
    speaker = engine.speaker
    bos, eos = (
        speaker.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""
        for token in (speaker.bos, speaker.eos)
    )
    source = BUILTIN.get(family.template or "", family.template) or speaker.chat_template or BUILTIN["chatml"]
    template = Template(source, bos=bos, eos=eos, trusted=family == bundled_family())
    prompts = (template.render([{"role": "user", "content": text}]) for text in texts)
    return [speaker.tokenize(text.encode(), add_bos=not has_bos(text, bos), special=True) for text in prompts]
