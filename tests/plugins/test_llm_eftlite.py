"""llm-eftlite, driven by ``llm``'s own commands and its Python interface, on the bundled family; fifteen seconds."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

from eftlite import EFT, Family, Knobs, Limits, Sampling
from eftlite.settings import Speculation
from tests.conftest import DEMO, ROOT
from tests.distributions import write_distribution
from tests.hosts import host_python

llm = pytest.importorskip("llm")
PLUGIN = ROOT / "plugins" / "llm-eftlite"
QUESTION = "Where is Kelworth?"
NAMES = ("base", "tuned", "reference")


@pytest.fixture(scope="module")
def plugin() -> Iterator[ModuleType]:
    """The plugin, known to ``llm`` as an installed one would be."""
    sys.path.insert(0, str(PLUGIN))
    try:
        found = importlib.import_module("llm_eftlite")
        cli = importlib.import_module("llm.cli").cli
        llm.pm.register(found)
        found.register_commands(cli)
        yield found
        importlib.import_module("llm_eftlite.loaded").KEEPER.close()
        llm.pm.unregister(found)
        del cli.commands["eftlite"]
    finally:
        sys.path.remove(str(PLUGIN))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, in which there are models under the names of the README."""
    for name in NAMES:
        (tmp_path / f"{name}.gguf").symlink_to(DEMO / f"{name}-f16.gguf")
    text = 'name = "two"\nbase = "base.gguf"\n[[delta]]\ntuned = "tuned.gguf"\nreference = "reference.gguf"\n'
    (tmp_path / "family.toml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


Run = Callable[..., str]


@pytest.fixture
def run(plugin: ModuleType, home: Path) -> Run:
    """Runs a command of ``llm``; gives what it prints."""
    cli = importlib.import_module("llm.cli").cli

    def invoke(*words: str, fails: bool = False) -> str:
        result: Result = CliRunner().invoke(cli, words)
        assert (result.exit_code != 0) == fails, result.output
        assert fails or result.exception is None
        assert isinstance(result.exception, SystemExit | None), result.exception
        return result.output

    return invoke


def greedy(**options: Any) -> list[str]:
    """Options of a command line."""
    options = {"temperature": 0, "max_tokens": 24, **options}
    return [word for name, value in options.items() for word in ("-o", name, str(value))]


@pytest.fixture(scope="module")
def eft() -> Iterator[EFT]:
    """The same models without ``llm``."""
    with EFT(n_threads=1) as found:
        yield found


def direct(eft: EFT, *turns: str, knobs: Knobs | None = None, **sampling: Any) -> str:
    """The greedy answer without ``llm``."""
    messages = [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(turns)]
    sampling = {"temperature": 0.0, **sampling}
    return eft.chat(messages, sampling=Sampling(**sampling), limits=Limits(max_tokens=24), knobs=knobs).text()


# ---- as it is installed


def in_a_process(folder: Path, *words: str) -> str:
    """What Python prints in a process of its own, where ``llm`` finds the plugin by its entry point."""
    write_distribution(folder / "installed", "llm-eftlite", {"llm": {"eftlite": "llm_eftlite"}})
    path = os.pathsep.join(map(str, (folder / "installed", PLUGIN, ROOT)))
    environment = {**os.environ, "PYTHONPATH": path, "LLM_USER_PATH": str(folder / "llm")}
    command = [sys.executable, *words]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_llm_finds_it_by_its_entry_point(home: Path, eft: EFT) -> None:
    """The point is the one in pyproject.toml."""
    assert '[project.entry-points.llm]\neftlite = "llm_eftlite"\n' in (PLUGIN / "pyproject.toml").read_text()
    answer = in_a_process(home, "-m", "llm", "-m", "eftlite/demo", *greedy(), QUESTION)
    assert answer.strip() == direct(eft, QUESTION).strip()


def test_listing_models_loads_no_library(home: Path) -> None:
    """``llm`` loads every plugin before every command."""
    code = (
        "import sys; from llm import get_models; ids = [model.model_id for model in get_models()];"
        "print('eftlite/demo' in ids, [name for name in ('llama_cpp', 'numba', 'jinja2') if name in sys.modules])"
    )
    assert in_a_process(home, "-c", code).strip() == "True []"


def readme_commands() -> list[str]:
    """The lines of the README's sh blocks."""
    blocks = (PLUGIN / "README.md").read_text(encoding="utf-8").split("```sh\n")[1:]
    return [line for block in blocks for line in block.split("```")[0].splitlines()]


def test_the_readmes_commands_run(run: Run) -> None:
    commands = [shlex.split(line) for line in readme_commands()]
    assert len(commands) > 8
    for program, *words in commands:
        assert program == "llm"
        assert run(*words).strip(), words


@pytest.mark.hosts
def test_in_an_environment_of_its_own(tmp_path: Path) -> None:
    """Half a minute: installs ``llm``, then the plugin by pip; eftlite's own libraries are this interpreter's."""
    python = host_python("llm", "llm>=0.36")
    copied = shutil.copytree(PLUGIN, tmp_path / "plugin")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, str(copied)], check=True)
    site = Path(pytest.__file__).parents[1]
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.path += {[str(ROOT), str(site)]!r}\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "LLM_USER_PATH": str(tmp_path / "llm")}
    command = [str(python.with_name("llm")), "-m", "eftlite/demo", *greedy(), QUESTION]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "Kelworth" in result.stdout


# ---- answers


def test_modes_and_knobs_are_eftlites(run: Run, eft: EFT) -> None:
    for mode in ("base", "tuned", "reference", "eft"):
        found = run("-m", "eftlite/demo", *greedy(mode=mode), QUESTION)
        assert found.strip() == direct(eft, QUESTION, knobs=eft.knobs_for(mode)).strip(), mode
    found = run("-m", "eftlite/demo", *greedy(delta="helpful=0.5,harmless=1", beta=0.5), QUESTION)
    assert found.strip() == direct(eft, QUESTION, knobs=Knobs((0.5, 1.0), beta=0.5)).strip()


def test_a_conversation_goes_on(run: Run, eft: EFT) -> None:
    first = run("-m", "eftlite/demo", *greedy(), QUESTION).removesuffix("\n")
    second = run("-c", *greedy(), "And what is it known for?")
    assert second.strip() == direct(eft, QUESTION, first, "And what is it known for?").strip()


def test_options_cover_every_knob(plugin: ModuleType) -> None:
    """A field that is added to the settings is missed here."""
    options = importlib.import_module("llm_eftlite.options").EFTOptions.model_fields
    known = {one.name for kind in (Knobs, Sampling, Limits, Speculation) for one in fields(kind)}
    # By other names (alpha and delta, speculative), or of no use where no token is shown.
    assert known - set(options) == {"alphas", "enabled", "n_top"}


def test_every_option_reaches_the_settings(plugin: ModuleType) -> None:
    options = importlib.import_module("llm_eftlite.options").EFTOptions
    family = Family("one", "base", llm.get_model("eftlite/demo").family.deltas)
    said = options(alpha="0.5", control_tokens="false", conservative_p="0.9", stop="x", logit_bias='{"3": -1}')
    assert said.knobs(family) == Knobs((0.5, 0.0), conservative_p=0.9, control_tokens=False)
    assert said.limits() == Limits(stop=("x",))
    assert said.sampling(None) == Sampling(logit_bias={3: -1.0})
    assert options(speculative=False, rule="block").speculation() == Speculation(enabled=False, rule="block")
    assert options(seed=3, mirostat=2, dry_base=2).sampling(None) == Sampling(seed=3, mirostat=2, dry_base=2.0)
    assert options(n_ctx=99).loading().n_ctx == 99


def test_streams_piece_by_piece(plugin: ModuleType, home: Path) -> None:
    response = llm.get_model("eftlite/demo").prompt(QUESTION, temperature=0, max_tokens=24)
    pieces = list(response)
    assert len(pieces) > 5
    assert "".join(pieces) == response.text()


def test_usage_and_what_the_answer_took(plugin: ModuleType, home: Path, eft: EFT) -> None:
    model = llm.get_model("eftlite/demo")
    conversation = model.conversation()
    first = conversation.prompt(QUESTION, temperature=0, seed=5)
    text = first.text()
    usage = first.usage()
    assert usage.input == len(eft.chat_prompts([{"role": "user", "content": QUESTION}])[0])
    assert usage.output == len(eft.tokenize(text.encode(), add_bos=False))
    took = first.json()
    assert (took["finish_reason"], took["seed"]) == ("stop", 5)
    assert took["tokens_per_s"] > 0
    assert took["shift"] > 0
    later = conversation.prompt("And what is it known for?", temperature=0).usage()
    assert later.details["cached"] >= usage.input  # the first turn is not evaluated again


def test_a_schema_is_followed(plugin: ModuleType, home: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    response = llm.get_model("eftlite/demo").prompt(QUESTION, schema=schema, max_tokens=64)
    assert json.loads(response.text())["n"] in (1, 2)


# ---- models in memory


def test_models_are_loaded_at_the_first_prompt_and_kept(
    plugin: ModuleType, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``llm`` makes another model object each time one is asked for."""
    loaded = importlib.import_module("llm_eftlite.loaded")
    keeper = loaded.Keeper()
    made: list[EFT] = []
    monkeypatch.setattr(importlib.import_module("llm_eftlite.model"), "KEEPER", keeper)
    load = loaded._load

    def note(*arguments: Any) -> EFT:
        made.append(load(*arguments))
        return made[-1]

    monkeypatch.setattr(loaded, "_load", note)
    assert llm.get_model("eftlite/demo") is not llm.get_model("eftlite/demo")
    assert not made
    for _ in range(2):
        llm.get_model("eftlite/demo").prompt("Hello", max_tokens=2).text()
    assert len(made) == 1
    llm.get_model("eftlite/demo").prompt("Hello", max_tokens=2, n_ctx=128).text()
    assert [eft.n_ctx for eft in made][1:] == [128]
    keeper.close()
    assert not keeper._kept


# ---- which there are


def test_added_families_are_models(run: Run, home: Path) -> None:
    assert "eftlite/two" not in run("models")
    run("eftlite", "add", "family.toml")
    run("eftlite", "add", "three", "--base", "base.gguf", "--tuned", "tuned.gguf", "--reference", "reference.gguf")
    listed = {one["model"]: one for one in json.loads(run("eftlite", "list", "--json"))}
    assert {name: one["from"] for name, one in listed.items()} == {
        "eftlite/demo": "bundled",
        "eftlite/two": "added",
        "eftlite/three": "added",
    }
    assert listed["eftlite/two"]["base"] == str(home / "base.gguf")
    answers = {run("-m", f"eftlite/{name}", *greedy(), QUESTION) for name in ("demo", "two", "three")}
    assert len(answers) == 1


def test_a_preset_is_a_model_once_it_is_added_or_here(run: Run, home: Path) -> None:
    """Naming one by mistake must not fetch gigabytes."""
    assert "eftlite/qwen2.5-7b" not in run("models")
    assert "fetches" in run("eftlite", "add", "qwen2.5-7b")
    assert "eftlite/qwen2.5-7b" in run("models")
    assert "to fetch" in run("eftlite", "list")
    own = Path(os.environ["EFTLITE_CONFIG_DIR"]) / "presets"
    own.mkdir(parents=True)
    shutil.copy(home / "family.toml", own / "mine.toml")
    assert "eftlite/mine" in run("models")


def test_a_wrong_file_is_listed_and_harms_nothing(run: Run, home: Path) -> None:
    folder = home / "llm" / "eftlite"
    folder.mkdir(parents=True)
    (folder / "wrong.toml").write_text("base =")
    assert "eftlite/wrong" not in run("models")
    listed = {one["model"]: one for one in json.loads(run("eftlite", "list", "--json"))}
    assert "wrong.toml" in listed["eftlite/wrong"]["error"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["eftlite", "add", "no-such"], "there is none called"),
        (["eftlite", "add", "gone.toml"], "gone.toml"),
        (["eftlite", "add", "demo", "--base", "base.gguf"], "already"),
        (["eftlite", "add", "../out", "--base", "base.gguf"], "expected letters"),
        (["eftlite", "add", "x", "--base", "gone.gguf"], "no such file"),
        (["eftlite", "add", "x", "--tuned", "tuned.gguf"], "base"),
        (["-m", "eftlite/demo", "-o", "top_p", "7", "x"], "top_p: expected a number"),
        (["-m", "eftlite/demo", "-o", "alpha", "-1", "x"], "negative"),
        (["-m", "eftlite/demo", "-o", "mode", "tuned", "-o", "alpha", "1", "x"], "expected no knobs"),
        (["-m", "eftlite/demo", "-o", "mode", "best", "x"], "expected eft, base"),
        (["-m", "eftlite/demo", "-o", "delta", "loud=1", "x"], "none is called 'loud'"),
        (["-m", "eftlite/demo", "-o", "delta", "1", "x"], "delta"),
        (["-m", "eftlite/demo", "-o", "logit_bias", "[", "x"], "logit_bias"),
        (["-m", "eftlite/demo", "--schema", "a int", "-o", "grammar", "root ::= x", "x"], "both"),
        (["-m", "eftlite/demo", "-o", "n_ctx", "9", "a longer question than nine tokens hold, is it not?"], "context"),
        (["-m", "eftlite/demo", "-o", "nonsense", "9", "x"], "nonsense"),
    ],
)
def test_mistakes_are_told_in_a_line(run: Run, words: list[str], says: str) -> None:
    told = run(*words, fails=True)
    assert says in told
    assert "Traceback" not in told
