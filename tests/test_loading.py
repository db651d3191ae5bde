"""Families loaded: who is who, one model for one file, sizes and settings, nothing left behind when it fails."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import llama_cpp
import pytest

from eftlite import EFT, loading
from eftlite.available import VARIABLE
from eftlite.composite import Roles
from eftlite.errors import EngineError, InputError, MemoryLimitError, ModelFileError, VocabularyError
from eftlite.loading import Engine, load, member_names
from eftlite.placement import TOLERANCE
from eftlite.settings import Delta, Family, ModelSettings
from tests.fakes import close_family
from tests.tiny_gguf import write_family, write_model

ONE = ModelSettings(n_threads=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny family's files."""
    return close_family(tmp_path_factory.mktemp("loading"))


@pytest.fixture
def balance(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Models and contexts made, less those freed."""
    count = {"models": 0, "contexts": 0}

    def watch(name: str, what: str, change: int) -> None:
        real = getattr(llama_cpp, name)

        def call(*args: object) -> object:
            result = real(*args)
            count[what] += change if change < 0 or result else 0
            return result

        monkeypatch.setattr(llama_cpp, name, call)

    watch("llama_model_load_from_file", "models", 1)
    watch("llama_model_free", "models", -1)
    watch("llama_init_from_model", "contexts", 1)
    watch("llama_free", "contexts", -1)
    return count


def family(files: dict[str, str], *deltas: Delta) -> Family:
    """A family on the tiny base."""
    return Family("tiny", files["base"], deltas or (Delta("d", files["tuned"], files["reference"]),))


def loaded(files: dict[str, str], **options: object) -> Engine:
    """The tiny family with a context of 64."""
    arguments: dict[str, object] = {"n_ctx": 64, "n_slots": 1, "settings": ONE, **options}
    return load(family(files), **arguments)  # type: ignore[arg-type]  # as named there


# ---- who is who


def test_roles_and_names_of_one_delta(files: dict[str, str]) -> None:
    engine = loaded(files)
    assert [member.name for member in engine.ensemble.members] == ["base", "tuned", "reference"]
    assert engine.ensemble.roles == Roles(3, 0, ((1, 2),))
    assert engine.first_tuned == 1
    assert engine.shared.n_vocab == 512
    assert [model.path.name for model in engine.models] == ["base.gguf", "tuned.gguf", "reference.gguf"]
    engine.close()


def test_a_base_alone(files: dict[str, str]) -> None:
    engine = load(Family("alone", files["base"]), 64, 1, ONE)
    assert engine.ensemble.roles == Roles(1, 0, ())
    assert engine.first_tuned is None
    engine.close()


def test_names_of_several_deltas(files: dict[str, str]) -> None:
    other = files["tuned"].replace("tuned", "other")
    two = family(files, Delta("kind", files["tuned"], files["reference"]), Delta("brief", other, files["reference"]))
    assert list(member_names(two).values()) == ["base", "tuned", "reference", "tuned:brief"]


def test_a_file_named_twice_is_loaded_once(files: dict[str, str], tmp_path: Path, balance: dict[str, int]) -> None:
    """By another spelling or through a link; down-scaling's tuned model may be the base of another role."""
    folder, name = os.path.split(files["reference"])
    spelled = f"{folder}{os.sep}.{os.sep}{name}"
    link = tmp_path / "link.gguf"
    link.symlink_to(files["tuned"])
    three = family(
        files,
        Delta("a", files["tuned"], files["reference"]),
        Delta("b", str(link), spelled),
        Delta("c", files["base"], files["reference"]),
    )
    engine = load(three, 64, 1, ONE)
    assert balance == {"models": 3, "contexts": 3}
    assert engine.ensemble.roles == Roles(3, 0, ((1, 2), (1, 2), (0, 2)))
    engine.close()


def test_a_drafter_of_ones_own(files: dict[str, str]) -> None:
    engine = loaded(files, drafter=files["tuned"])
    assert [member.name for member in engine.ensemble.members] == ["base", "tuned", "reference"]  # known already
    engine.close()
    extra = str(write_model(Path(files["base"]).parent / "extra.gguf", seed=7))
    engine = loaded(files, drafter=extra)
    assert [member.name for member in engine.ensemble.members] == ["base", "tuned", "reference", "drafter"]
    assert engine.ensemble.roles.deltas == ((1, 2),)
    engine.close()


# ---- sizes and settings


@pytest.mark.parametrize(("n_ctx", "expected"), [(None, 256), (0, 256), (64, 64), (300, 300)])
def test_the_context(files: dict[str, str], n_ctx: int | None, expected: int) -> None:
    engine = loaded(files, n_ctx=n_ctx, n_slots=2)
    assert engine.ensemble.n_ctx == expected
    assert len(engine.ensemble.texts) == 2
    engine.close()


def test_by_default_no_more_than_4096_tokens(tmp_path: Path) -> None:
    base = str(write_model(tmp_path / "m.gguf", seed=1, n_ctx=100_000))
    engine = load(Family("long", base), None, 1, ONE)
    assert engine.ensemble.n_ctx == loading.DEFAULT_N_CTX
    engine.close()


def test_the_shortest_training_decides(tmp_path: Path) -> None:
    files = close_family(tmp_path)
    files["reference"] = str(write_model(tmp_path / "short.gguf", seed=1, n_ctx=48))
    engine = load(family(files), None, 1, ONE)
    assert engine.ensemble.n_ctx == 48
    engine.close()


@pytest.mark.parametrize("name", ["n_ctx", "n_slots"])
@pytest.mark.parametrize("value", [-1, 1 << 40, True, 1.5, "64", float("nan")])
def test_sizes_out_of_range_are_refused(
    files: dict[str, str], balance: dict[str, int], name: str, value: object
) -> None:
    with pytest.raises(InputError, match=f"{name}: expected an integer"):
        loaded(files, **{name: value})
    assert balance == {"models": 0, "contexts": 0}


def test_settings_by_role(files: dict[str, str]) -> None:
    engine = loaded(files, settings={"base": ModelSettings(n_threads=1, n_batch=8), "tuned": ONE, "reference": ONE})
    assert [member.max_rows for member in engine.ensemble.members] == [8, 64, 64]
    engine.close()


def test_settings_for_nobody_are_refused(files: dict[str, str], balance: dict[str, int]) -> None:
    with pytest.raises(InputError, match="settings: expected base, reference, tuned, got 'tunde'"):
        loaded(files, settings={"tunde": ONE})
    assert balance == {"models": 0, "contexts": 0}


def test_progress_names_the_member(files: dict[str, str]) -> None:
    seen: list[tuple[str, float]] = []
    loaded(files, progress=lambda name, done: seen.append((name, done))).close()
    assert [name for name, done in seen if done == 1.0] == ["base", "tuned", "reference"]


# ---- failing


def test_a_bad_file_leaves_nothing_behind(files: dict[str, str], tmp_path: Path, balance: dict[str, int]) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(Path(files["reference"]).read_bytes()[:5000])
    with pytest.raises(ModelFileError, match=r"broken\.gguf"):
        load(family({**files, "reference": str(broken)}), 64, 1, ONE)
    assert balance == {"models": 0, "contexts": 0}


def test_another_vocabulary_leaves_nothing_behind(tmp_path: Path, balance: dict[str, int]) -> None:
    paths = {part: str(path) for part, path in write_family(tmp_path, seed=1, base_text=(300, "qqq")).items()}
    with pytest.raises(VocabularyError) as caught:
        load(family(paths), 64, 1, ONE)
    assert caught.value.token_id == 300
    assert caught.value.texts is not None
    assert "qqq" in caught.value.texts
    assert balance == {"models": 0, "contexts": 0}


def test_a_context_that_cannot_be_made_leaves_nothing_behind(files: dict[str, str], balance: dict[str, int]) -> None:
    bad = ModelSettings(n_threads=1, type_v="q8_0", flash_attn=False)
    with pytest.raises(EngineError, match=r"reference: llama\.cpp cannot make a context"):
        loaded(files, settings={"base": ONE, "tuned": ONE, "reference": bad})
    assert balance == {"models": 0, "contexts": 0}


def test_a_loop_of_links_is_named(tmp_path: Path) -> None:
    loop = tmp_path / "loop.gguf"
    loop.symlink_to(loop)
    with pytest.raises(ModelFileError, match=r"loop\.gguf"):
        load(Family("loop", str(loop)), 64, 1, ONE)


def test_closing_frees_everything_once(files: dict[str, str], balance: dict[str, int]) -> None:
    engine = loaded(files)
    assert balance == {"models": 3, "contexts": 3}
    engine.close()
    engine.close()
    assert balance == {"models": 0, "contexts": 0}


def test_an_interrupted_measurement_frees_the_models(
    files: dict[str, str], balance: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("eftlite.eft.Planner", interrupted)
    with pytest.raises(KeyboardInterrupt):
        EFT(files["base"], files["tuned"], files["reference"], n_threads=1)
    assert balance == {"models": 0, "contexts": 0}


# ---- side by side


def test_one_processor_is_not_shared_side_by_side(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = loaded(files)
    assert not engine.ensemble.side_by_side
    engine.close()
    monkeypatch.setattr(loading, "supports_gpu", lambda: True)
    for settings, expected in (
        ({"base": ModelSettings(n_gpu_layers=9), "tuned": ONE, "reference": ONE}, True),
        ({"base": ModelSettings(n_gpu_layers=9), "tuned": ModelSettings(n_gpu_layers=9)}, True),
        ({part: ModelSettings(n_gpu_layers=9) for part in ("base", "tuned", "reference")}, False),
    ):
        engine = loaded(files, settings=settings)
        assert engine.ensemble.side_by_side == expected
        engine.close()


def test_a_copy_of_a_file_is_another_model(files: dict[str, str], tmp_path: Path, balance: dict[str, int]) -> None:
    copy = tmp_path / "copy.gguf"
    shutil.copyfile(files["tuned"], copy)
    two = family(files, Delta("a", files["tuned"], files["reference"]), Delta("b", str(copy), files["reference"]))
    engine = load(two, 64, 1, ONE)
    assert balance["models"] == 4
    engine.close()


# ---- memory, and settings of single members


def test_a_familys_own_settings_go_before_those_for_all(files: dict[str, str]) -> None:
    own = replace(family(files), settings={"base": {"n_batch": 8}, "tuned": {"type_k": "bf16", "use_mmap": False}})
    engine = load(own, 64, 1, ONE)
    settings = {member.name: member.settings for member in engine.ensemble.members}
    assert [one.n_batch for one in settings.values()] == [8, 512, 512]
    assert [one.type_k for one in settings.values()] == ["f16", "bf16", "f16"]
    assert not engine.models[1].settings.use_mmap
    engine.close()


def test_own_settings_for_nobody_are_refused(files: dict[str, str], balance: dict[str, int]) -> None:
    with pytest.raises(InputError, match="settings: expected base, reference, tuned, got 'bse'"):
        load(replace(family(files), settings={"bse": {"n_batch": 8}}), 64, 1, ONE)
    assert balance == {"models": 0, "contexts": 0}


def test_too_little_memory_is_refused_before_anything_is_opened(
    files: dict[str, str], balance: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "0.001")
    with pytest.raises(MemoryLimitError, match=rf"^memory: expected .* of main memory, got 1\.0 MB by {VARIABLE}"):
        loaded(files)
    assert balance == {"models": 0, "contexts": 0}


def test_what_was_made_smaller_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    base = str(write_model(tmp_path / "m.gguf", seed=1, n_ctx=100_000))
    with EFT(base, n_threads=1) as eft:
        usual = eft._engine.placement
        assert eft.notes == ()
    monkeypatch.setenv(VARIABLE, str((usual.memory * TOLERANCE - usual.needs["base"].cache * 0.9) / 1e9))
    with EFT(base, n_threads=1) as eft:
        assert eft.n_ctx < usual.n_ctx
        assert eft.notes == eft._engine.placement.notes
    assert f"context of {eft.n_ctx} tokens, not 4096: memory is short" in caplog.messages
