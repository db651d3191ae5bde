"""LoRA adapters in use: the composite of merged models from one set of weights, caches, drafts, stops, lifetimes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from numpy.typing import NDArray

from eftlite import EFT
from eftlite.adapter import Adapter
from eftlite.composite import Recipe, Roles
from eftlite.demo.scoring import load_questions
from eftlite.errors import Cancelled, EngineError, InputError, ModelFileError
from eftlite.gguf import check
from eftlite.llama import Model
from eftlite.loading import Source, load, member_names
from eftlite.member import Member
from eftlite.memory import Gpu
from eftlite.placement import GPU_MARGIN, place
from eftlite.server.protocol import LoadRequest
from eftlite.server.wire import decode, encode
from eftlite.server.worker import about
from eftlite.settings import Delta, Family, Knobs, Limits, ModelSettings, Sampling, Speculation
from eftlite.timing import curve_key
from tests.conftest import DEMO, ROOT
from tests.fakes import GREEDY, close_family
from tests.lora import merge, write_adapter
from tests.tiny_gguf import write_model

ONE = ModelSettings(n_threads=1)
WIDE = ModelSettings(n_threads=1, type_k="f32", type_v="f32", flash_attn=False)  # nothing is rounded to F16
PLAIN = Knobs((1.0,), control_tokens=False)
TEXT = list(range(60, 92))
SUMS = 1e-4  # what another order of sums in F32 does to a log-probability here
Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny base and reference, two adapters for the reference and one for the base, and all three merged."""
    folder = tmp_path_factory.mktemp("adapters")
    found = close_family(folder)
    reference, base = Path(found["reference"]), Path(found["base"])
    for name, model, seed in (("one", reference, 5), ("two", reference, 6), ("large", base, 7)):
        adapter = write_adapter(folder / f"{name}.gguf", model, seed=seed)
        found[name], found[f"{name}-merged"] = str(adapter), str(merge(model, adapter, folder / f"{name}-merged.gguf"))
    return found


@pytest.fixture(scope="module")
def adapted(files: dict[str, str]) -> Iterator[EFT]:
    """The tiny family, its tuned model an adapter; tests leave it as they found it."""
    with EFT(files["base"], reference=files["reference"], adapter=files["one"], n_threads=1) as eft:
        yield eft


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was made and freed, in order."""
    made: list[str] = []

    def watch(name: str, word: str) -> None:
        real = getattr(llama_cpp, name)

        def call(*args: object) -> object:
            made.append(word)
            return real(*args)

        monkeypatch.setattr(llama_cpp, name, call)

    watch("llama_model_load_from_file", "model")
    watch("llama_adapter_lora_init", "adapter")
    watch("llama_init_from_model", "context")
    watch("llama_free", "free context")
    watch("llama_adapter_lora_free", "free adapter")
    watch("llama_model_free", "free model")
    return made


def log_probabilities(eft: EFT, ids: list[int], knobs: Knobs = PLAIN) -> Floats:
    """The composite after each token (n, n_vocab)."""
    ensemble, composite = eft._engine.ensemble, eft._engine.composite
    recipe, out = Recipe.of(knobs, ensemble.roles), np.empty(ensemble.n_vocab, np.float32)
    ensemble.clear(0)
    for member in ensemble.members:
        member.decode(0, ids, len(ids))
    found = []
    for n in range(1, len(ids) + 1):
        rows = [member.row(0, n)[: ensemble.n_vocab] for member in ensemble.members]
        scores = composite.combine(rows, recipe, out)
        found.append(scores.astype(np.float64) - composite.log_normaliser(scores))
    ensemble.clear(0)
    return np.array(found)


def difference(one: EFT, other: EFT, knobs: Knobs = PLAIN) -> float:
    """The largest difference of a log-probability on the text; both are closed."""
    with one, other:
        return float(np.abs(log_probabilities(one, TEXT, knobs) - log_probabilities(other, TEXT, knobs)).max())


def family(files: dict[str, str], *deltas: Delta, **options: Any) -> EFT:
    """A family on the tiny base."""
    return EFT(family=Family("tiny", files["base"], deltas, **options), settings=WIDE, speculative=False)


# ---- the same composite


def test_an_adapter_is_the_merged_model(files: dict[str, str]) -> None:
    """Weights in F32: what is left is the order of sums."""
    delta = Delta("d", files["reference"], files["reference"], adapter=files["one"])
    merged = family(files, Delta("d", files["one-merged"], files["reference"]))
    assert difference(family(files, delta), merged) < SUMS
    far = difference(family(files, delta), family(files, Delta("d", files["two-merged"], files["reference"])))
    assert far > 0.3


def test_several_adapters_are_several_deltas(files: dict[str, str]) -> None:
    knobs = Knobs((0.7, 0.5), control_tokens=False)
    both = [Delta(name, files["reference"], files["reference"], adapter=files[name]) for name in ("one", "two")]
    merged = [Delta(name, files[f"{name}-merged"], files["reference"]) for name in ("one", "two")]
    eft = family(files, *both)
    assert eft.members == ("base", "tuned", "reference", "tuned:two")
    assert [model.path.name for model in eft._engine.models] == ["base.gguf", "reference.gguf"]
    assert difference(eft, family(files, *merged), knobs) < SUMS


def test_a_base_with_an_adapter(files: dict[str, str]) -> None:
    delta = Delta("d", files["tuned"], files["reference"])
    eft = family(files, delta, adapter=files["large"])
    merged = EFT(files["large-merged"], files["tuned"], files["reference"], settings=WIDE, speculative=False)
    assert difference(eft, merged) < SUMS


def test_a_base_alone_with_an_adapter(files: dict[str, str]) -> None:
    eft = EFT(files["base"], adapter=files["large"], settings=WIDE)
    assert eft.members == ("base",)
    assert difference(eft, EFT(files["large-merged"], settings=WIDE), Knobs(())) < SUMS


def test_one_file_in_every_role(files: dict[str, str]) -> None:
    """Base and reference are one member, and base + tuned - reference is tuned."""
    small = files["reference"]
    eft = EFT(family=Family("one", small, (Delta("d", small, small, adapter=files["one"]),)), settings=WIDE)
    assert eft.members == ("base", "tuned")
    assert eft._engine.ensemble.roles == Roles(2, 0, ((1, 0),))
    assert len(eft._engine.models) == 1
    merged = EFT(family=Family("one", small, (Delta("d", files["one-merged"], small),)), settings=WIDE)
    assert difference(eft, merged) < SUMS


def test_the_reference_stays_as_it_is(files: dict[str, str], adapted: EFT) -> None:
    """An adapter is on in its own context only, bit for bit."""
    alone = Model(files["reference"], ONE)
    member = Member(alone, adapted.n_ctx)
    reference = adapted._engine.ensemble.members[2]
    for one in (member, reference):
        one.clear(0)
        one.decode(0, TEXT, 1)
    np.testing.assert_array_equal(reference.row(0, len(TEXT)), member.row(0, len(TEXT)))
    reference.clear(0)
    member.close()
    alone.close()


def test_the_bundled_adapter_is_as_exact_as_its_merged_model(tmp_path: Path) -> None:
    """Against numpy in float64 with the exact product: both ways round in F16, and neither more than the other."""
    small = DEMO / "reference-f16.gguf"
    merged = merge(small, DEMO / "lora-f16.gguf", tmp_path / "merged.gguf")
    options: dict[str, Any] = {"settings": ONE, "speculative": False}
    with (
        EFT(family=DEMO / "lora.toml", **options) as with_adapter,
        EFT(str(DEMO / "base-f16.gguf"), str(merged), str(small), **options) as with_merged,
    ):
        errors = []
        for question in load_questions()[::200]:
            messages = [{"role": role, "content": content} for role, content in question.messages]
            ids = with_adapter.chat_prompts(messages)[0]
            ids = [*ids, *(event.id for event in with_adapter.chat(messages, sampling=GREEDY, limits=Limits(30)))][-64:]
            exact = normalised(exact_scores(ids))
            ours, theirs = log_probabilities(with_adapter, ids), log_probabilities(with_merged, ids)
            errors.append([np.abs(ours - theirs).max(), np.abs(ours - exact).max(), np.abs(theirs - exact).max()])
    apart, ours, theirs = np.max(errors, 0)
    assert theirs < 0.03, "the noise of F16 itself"
    assert ours < 1.5 * theirs
    assert apart < 0.03


# In a process of its own with one thread: numpy's threads and others stall each other on a busy machine.
EXACT = """
import sys
from pathlib import Path
import numpy as np
from tests.lora import changes
from tests.numpy_llama import Llama
demo, ids = Path(sys.argv[1]), np.array([sys.argv[3].split()], np.int64)
base, reference, tuned = (Llama(demo / f"{name}-f16.gguf") for name in ("base", "reference", "reference"))
for name, change in changes(demo / "lora-f16.gguf").items():
    tuned._weights[name] = tuned._weights[name] + change
np.save(sys.argv[2], (base.logits(ids) + tuned.logits(ids) - reference.logits(ids))[0])
"""


def exact_scores(ids: list[int]) -> Floats:
    """(n, n_vocab): the formula at alpha = beta = 1 on the bundled files, up to a constant in each row."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scores.npy"
        command = [sys.executable, "-c", EXACT, str(DEMO), str(out), " ".join(map(str, ids))]
        one_thread = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=ROOT, env=one_thread, timeout=60, check=True)
        found: Floats = np.load(out)
    return found


def normalised(scores: Floats) -> Floats:
    """Log-probabilities of scores (n, n_vocab)."""
    shifted = scores - scores.max(-1, keepdims=True)
    found: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


@pytest.mark.parametrize("dtype", ["f16", "q8_0", "q4_0"])
def test_an_adapter_on_quantized_weights(dtype: str, tmp_path: Path) -> None:
    """Also where llama.cpp repacks the weights for the processor; the product is the one on F32 weights, about."""
    rows = {}
    for kind in ("f32", dtype):
        path = write_model(tmp_path / f"{kind}.gguf", seed=1, dtype=kind, n_embd=256, n_ff=256)
        lora = write_adapter(tmp_path / "lora.gguf", tmp_path / "f32.gguf", seed=3, dtype="f16", strength=0.7)
        model = Model(path, ONE)
        members = [Member(model, 64, adapter=one) for one in (Adapter(lora, model), None)]
        for member in members:
            member.decode(0, TEXT, 1)
        rows[kind] = [normalised(member.row(0, len(TEXT)).astype(np.float64)) for member in members]
        for member in members:
            member.close()
        model.close()
    ((exact, plain), (got, _)) = (rows["f32"], rows[dtype])
    noise = {"f16": 0.02, "q8_0": 0.1, "q4_0": 1.0}[dtype]
    assert float(np.sqrt(((got - exact) ** 2).mean())) < noise
    assert float(np.sqrt(((plain - exact) ** 2).mean())) > 2 * noise


# ---- caches, drafts, stops


def text_of(eft: EFT, prompt: str, **options: Any) -> list[int]:
    """Ids of an answer of 24 tokens; what was drafted and kept in the caches is checked after it."""
    found = [event.id for event in eft.complete(prompt, limits=Limits(24), **options)]
    eft.validate()
    return found


def test_drafts_do_not_change_the_text(adapted: EFT) -> None:
    """The tuned model drafts on the reference's weights; rejected tokens are dropped from both contexts."""
    sampling = Sampling(temperature=1.0, seed=11)
    plain = text_of(adapted, "one two", sampling=sampling, speculation=Speculation(enabled=False))
    for n_draft in (1, 3, 8):
        drafted = adapted.complete(
            "one two", sampling=sampling, limits=Limits(24), speculation=Speculation(n_draft=n_draft)
        )
        assert [event.id for event in drafted] == plain
        assert drafted.statistics.drafts
        adapted.validate()


def test_prefixes_are_reused(adapted: EFT) -> None:
    first = text_of(adapted, "a beginning, and more", sampling=GREEDY)
    answer = adapted.complete("a beginning, and more", sampling=GREEDY, limits=Limits(24))
    assert [event.id for event in answer] == first
    assert answer.statistics.n_reused > 5
    adapted._engine.ensemble.clear(0)
    assert text_of(adapted, "a beginning, and more", sampling=GREEDY) == first


def test_knobs_turn_the_adapter_on_and_off(adapted: EFT, files: dict[str, str]) -> None:
    """alpha 0 is the base, beta 0 the tuned model, in the middle of an answer as well."""
    answer = adapted.complete("now", sampling=GREEDY, limits=Limits(12), knobs=Knobs((0.0,)))
    ids = []
    for event in answer:
        ids.append(event.id)
        if len(ids) == 6:
            answer.knobs = Knobs((1.0,), beta=0.0)
    adapted.validate()
    with EFT(files["base"], n_threads=1) as base, EFT(files["one-merged"], n_threads=1) as tuned:
        assert ids[:6] == text_of(base, "now", sampling=GREEDY)[:6]
        rest = [
            event.id for event in tuned.complete(adapted.tokenize(b"now") + ids[:6], sampling=GREEDY, limits=Limits(6))
        ]
    assert ids[6:] == rest


def test_a_stop_leaves_caches_that_can_go_on(adapted: EFT) -> None:
    want = text_of(adapted, "stop here", sampling=GREEDY)
    tuned = adapted._engine.ensemble.members[1]
    tuned.clear(0)
    tuned.cancel.set()
    with pytest.raises(Cancelled):
        tuned.decode(0, TEXT, 1)
    tuned.cancel.clear()
    assert tuned.slots[0] == []
    answer = adapted.complete("stop here", sampling=GREEDY, limits=Limits(24))
    ids = []
    for event in answer:
        ids.append(event.id)
        if len(ids) == 5:
            adapted.stop()
    adapted.validate()
    assert ids[:5] == want[:5]
    assert len(ids) < len(want)
    assert text_of(adapted, "stop here", sampling=GREEDY) == want


# ---- who is who


def test_members_are_files_with_their_adapters(files: dict[str, str], tmp_path: Path) -> None:
    """The same adapter under another spelling is the same member."""
    link = tmp_path / "link.gguf"
    link.symlink_to(files["one"])
    small = files["reference"]
    deltas = (Delta("a", small, small, adapter=files["one"]), Delta("b", small, small, adapter=str(link)))
    names = member_names(Family("f", files["base"], deltas))
    assert names == {
        Source(files["base"]): "base",
        Source(small, files["one"]): "tuned",
        Source(small): "reference",
    }


def test_settings_are_each_members_own(files: dict[str, str]) -> None:
    """Weights are loaded as the member wants them that has them as they are; contexts as each member wants."""
    settings = {
        "tuned": ModelSettings(n_threads=1, type_k="f32", use_mmap=True),
        "reference": ModelSettings(n_threads=1, use_mmap=False),
    }
    small = files["reference"]
    engine = load(Family("f", files["base"], (Delta("d", small, small, adapter=files["one"]),)), 64, 1, settings)
    _, tuned, reference = engine.ensemble.members
    assert (tuned.name, reference.name, tuned.model.name) == ("tuned", "reference", "reference")
    assert tuned.model is reference.model
    assert (tuned.settings.type_k, reference.settings.type_k) == ("f32", "f16")
    assert not tuned.model.settings.use_mmap
    engine.close()


def test_a_drafter_of_ones_own(files: dict[str, str]) -> None:
    """A drafter that is the reference's file is the reference, not the tuned model on it."""
    small = files["reference"]
    tiny = Family("f", files["base"], (Delta("d", small, small, adapter=files["one"]),))
    engine = load(tiny, 64, 1, ONE, drafter=small)
    assert engine.drafter == "reference"
    engine.close()
    engine = load(tiny, 64, 1, ONE, drafter=files["tuned"])
    assert [member.name for member in engine.ensemble.members] == ["base", "tuned", "reference", "drafter"]
    engine.close()


@pytest.mark.parametrize("megabytes", [2, 10, 20, 30, 40])
def test_shared_weights_lie_in_one_place(megabytes: int, tmp_path: Path) -> None:
    """On a made-up GPU: as many layers for the tuned model as for the reference, and room for both contexts."""
    small = check(write_model(tmp_path / "small.gguf", seed=1, n_embd=256, n_layers=6, n_ff=1024))
    names, gpu = ("tuned", "reference"), Gpu("CUDA0", GPU_MARGIN + (megabytes << 20))
    placed = place(
        dict.fromkeys(names, small), dict.fromkeys(names, small.file_bytes), dict.fromkeys(names, ONE), 64, 1, [gpu],
        adapters={"tuned": 100_000},
    )  # fmt: skip  # as place has them
    tuned, reference = (placed.settings[name].n_gpu_layers for name in names)
    assert tuned == reference
    assert bool(tuned) == (megabytes > 2)
    on_gpu = sum(need.devices["CUDA0"].total for need in placed.needs.values() if "CUDA0" in need.devices)
    assert on_gpu <= megabytes << 20


def test_curves_are_kept_apart(adapted: EFT) -> None:
    """An adapter costs time, so its member's curve is its own; without one the key is what it always was."""
    _, tuned, reference = (curve_key(member) for member in adapted._engine.ensemble.members)
    assert tuned.pop("adapter") == "34816 bytes on 14 tensors"
    assert tuned == reference


def test_the_server_names_every_member(adapted: EFT) -> None:
    members = about(adapted).members
    assert [(one.name, one.file) for one in members] == [
        ("base", "base.gguf"), ("tuned", "reference.gguf + one.gguf"), ("reference", "reference.gguf")
    ]  # fmt: skip  # reads across


def test_the_servers_process_is_told_of_adapters(files: dict[str, str]) -> None:
    delta = Delta("d", files["reference"], files["reference"], adapter=files["one"])
    request = LoadRequest(Family("f", files["base"], (delta,), adapter=files["large"]))
    sent = decode(encode(request))
    assert isinstance(sent, LoadRequest)
    assert sent.family == request.family


def test_arguments_that_contradict(files: dict[str, str]) -> None:
    with pytest.raises(InputError, match="adapter: expected no tuned beside it"):
        EFT(files["base"], files["tuned"], files["reference"], adapter=files["one"])
    with pytest.raises(InputError, match="base: expected a path beside the others"):
        EFT(adapter=files["one"])
    with pytest.raises(InputError, match="expected either a family or a base"):
        EFT(files["base"], adapter=files["large"], family=DEMO / "lora.toml")


# ---- lifetimes


def test_adapters_come_before_contexts_and_end_with_their_model(files: dict[str, str], calls: list[str]) -> None:
    """llama.cpp frees an adapter with its model, and graphs are sized by the adapters that a model has."""
    small = files["reference"]
    deltas = [Delta(name, small, small, adapter=files[name]) for name in ("one", "two")]
    engine = load(Family("f", files["base"], tuple(deltas)), 64, 1, ONE)
    engine.close()
    made, freed = ["model"] * 2 + ["adapter"] * 2 + ["context"] * 4, ["free context"] * 4 + ["free model"] * 2
    assert calls == made + freed


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        ("one", r"one\.gguf: expected blk\.0\.attn_q\.weight of 32 × 32 as in narrow\.gguf"),
        ("tuned", r"tuned\.gguf: expected a LoRA adapter, got a model"),
        ("missing", r"missing\.gguf: expected a GGUF file, but there is no such file"),
    ],
)
def test_a_wrong_adapter_is_told_before_anything_is_loaded(
    adapter: str, words: str, files: dict[str, str], calls: list[str]
) -> None:
    narrow = str(write_model(Path(files["base"]).parent / "narrow.gguf", seed=9, n_embd=32))
    delta = Delta("d", narrow, narrow, adapter=files.get(adapter, "missing.gguf"))
    with pytest.raises(ModelFileError, match=words):
        load(Family("f", files["base"], (delta,)), 64, 1, ONE)
    assert calls == []


def test_llama_cpps_refusals_are_errors(
    files: dict[str, str], calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = files["reference"]
    tiny = Family("f", files["base"], (Delta("d", small, small, adapter=files["one"]),))
    with monkeypatch.context() as patch:
        patch.setattr(llama_cpp, "llama_set_adapters_lora", lambda *_: -1)
        with pytest.raises(EngineError, match=r"tuned: llama_set_adapters_lora of one\.gguf failed with code -1"):
            load(tiny, 64, 1, ONE)
    assert calls.count("context") == calls.count("free context")
    assert calls.count("model") == calls.count("free model")
    monkeypatch.setattr(llama_cpp, "llama_adapter_lora_init", lambda *_: None)
    with pytest.raises(ModelFileError, match=r"one\.gguf: llama\.cpp cannot put this adapter on reference\.gguf"):
        load(tiny, 64, 1, ONE)
    assert calls.count("model") == calls.count("free model")


# ---- memory

# Loads a family in a process of its own and tells how much more memory it has then.
LOADED = """
import json, sys
import psutil
from eftlite.loading import load
from eftlite.settings import Delta, Family, ModelSettings
base, tuned, reference, adapter = sys.argv[1:]
settings = ModelSettings(n_threads=1, use_mmap=False)
before = psutil.Process().memory_info().rss
engine = load(Family("f", base, (Delta("d", tuned, reference, adapter=adapter or None),)), 64, 1, settings)
print(json.dumps(psutil.Process().memory_info().rss - before))
"""


def loaded_bytes(*files: Path | str) -> int:
    """Bytes that a process has more once a family is loaded."""
    command = [sys.executable, "-c", LOADED, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ, timeout=60, check=True)
    found: int = json.loads(done.stdout)
    return found


def test_one_small_model_less_in_memory(tmp_path: Path) -> None:
    small = write_model(tmp_path / "small.gguf", seed=1, n_embd=384, n_layers=4, n_ff=1024)
    base = write_model(tmp_path / "base.gguf", seed=2)
    lora = write_adapter(tmp_path / "lora.gguf", small, seed=3)
    merged = merge(small, lora, tmp_path / "merged.gguf")
    saved = loaded_bytes(base, merged, small, "") - loaded_bytes(base, small, small, lora)
    expected = small.stat().st_size - lora.stat().st_size
    assert expected > 20_000_000
    assert abs(saved / expected - 1) < 0.1
