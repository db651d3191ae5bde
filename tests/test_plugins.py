"""Plugins: found without being imported, loaded when asked for, blamed by name, and never in the way of anything."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eftlite.errors import EngineError, InputError
from eftlite.plugins import GROUPS, Entry, Registry, installed
from tests.distributions import on_path, write_distribution

BUILT_IN = {"lookup": ("eftlite.lookup:NgramIndex", "An index."), "sin": ("math:sin", "A sine.")}
MODULE = "import os\nthing = [1, 2]\nclass Box:\n    lid = 'red'\n"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder on the path."""
    with on_path(tmp_path):
        yield tmp_path


def registry() -> Registry:
    """Drafters, two of them built in."""
    return Registry("drafter", BUILT_IN, reserved=("auto",))


def bring(folder: Path, distribution: str = "one", version: str = "1.0", **values: str) -> Path:
    """A distribution with drafters."""
    return write_distribution(folder, distribution, {GROUPS["drafter"]: values}, version=version)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was warned of."""
    return [record.message for record in caplog.records if record.name == "eftlite.plugins"]


# ---- finding


def test_a_plugin_is_found_with_who_brings_it_and_not_imported(folder: Path) -> None:
    points = {GROUPS["drafter"]: {"mine": "plugged:thing"}, "console_scripts": {"mine": "plugged:main"}}
    write_distribution(folder, "one-plugin", points, {"plugged": MODULE}, "2.1", "Things")
    entry = registry().find("mine")
    assert entry == Entry("drafter", "mine", "plugged:thing", "Things", "one-plugin", "2.1")
    assert "plugged" not in sys.modules
    assert entry.load() == [1, 2]
    assert entry.folder == folder


def test_an_attribute_may_be_deep(folder: Path) -> None:
    write_distribution(folder, "one", {GROUPS["drafter"]: {"mine": "plugged:Box.lid"}}, {"plugged": MODULE})
    entry = registry().find("mine")
    assert entry is not None
    assert entry.load() == "red"


def test_what_is_built_in_has_the_same_form_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    from math import sin

    def ask() -> None:
        raise AssertionError("looked at what is installed")

    monkeypatch.setattr("importlib.metadata.distributions", ask)
    installed.cache_clear()
    entry = registry().find("sin")
    assert entry is not None
    assert entry.load() is sin
    assert (entry.distribution, entry.summary) == (None, "A sine.")


def test_each_kind_has_a_group_of_its_own(folder: Path) -> None:
    write_distribution(folder, "one", {group: {kind: "m:x"} for kind, group in GROUPS.items()})
    assert [(entry.kind, entry.name) for entry in installed()] == [(kind, kind) for kind in sorted(GROUPS)]
    assert [entry.name for entry in Registry("preset", {}).installed()] == ["preset"]


def test_installed_is_read_once(folder: Path) -> None:
    bring(folder, mine="m:x")
    assert registry().find("mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("importlib.metadata.distributions", list)
        assert registry().find("mine")


def test_the_first_of_two_versions_on_the_path_counts(folder: Path, tmp_path: Path) -> None:
    bring(folder, "my-plugin", "2.0", mine="m:new")
    write_distribution(tmp_path / "later", "My_Plugin", {GROUPS["drafter"]: {"mine": "m:old", "gone": "m:old"}})
    sys.path.append(str(tmp_path / "later"))
    try:
        assert [(entry.name, entry.version, entry.value) for entry in registry().installed()] == [
            ("mine", "2.0", "m:new")
        ]
    finally:
        sys.path.remove(str(tmp_path / "later"))


# ---- names


def test_built_in_and_reserved_names_win(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    bring(folder, lookup="m:x", auto="m:y", mine="m:z")
    drafters = registry()
    entry = drafters.find("lookup")
    assert entry is not None
    assert entry.distribution is None
    assert list(drafters.plugins()) == ["mine"]
    assert drafters.find("auto") is None
    assert [(one.name, one.problem) for one in drafters.installed()] == [
        ("auto", "the name is taken by eftlite"),
        ("lookup", "the name is taken by eftlite"),
        ("mine", ""),
    ]
    assert [text.partition(". ")[0] for text in warnings(caplog)] == [
        f"plugin one 1.0: drafter {name}: the name is taken by eftlite" for name in ("auto", "lookup")
    ]


def test_of_two_plugins_with_one_name_the_first_in_the_alphabet_is_used(folder: Path) -> None:
    bring(folder, "zeta", mine="m:z")
    bring(folder, "alpha", mine="m:a")
    entry = registry().find("mine")
    assert entry is not None
    assert entry.distribution == "alpha"
    assert [one.problem for one in registry().installed()] == ["", "the name is taken by alpha"]


@pytest.mark.parametrize("name", ["a+b", "a b", "-a", "a/b", "ä", "a[b]"])
def test_a_name_that_cannot_be_typed_is_not_used(folder: Path, name: str) -> None:
    bring(folder, **{name: "m:x"})
    assert registry().find(name) is None
    assert "expected a name of letters" in registry().installed()[0].problem


# ---- faults


@pytest.mark.parametrize(
    ("module", "value", "words"),
    [
        ("import nosuchmodule", "plugged:x", "ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("", "absent:x", "ModuleNotFoundError: No module named 'absent'"),
        ("", "plugged:x", "AttributeError: module 'plugged' has no attribute 'x'"),
        ("def (", "plugged:x", "SyntaxError: "),
        ("raise RuntimeError('two\\nlines')", "plugged:x", "RuntimeError: two lines"),
        ("raise SystemExit(3)", "plugged:x", "SystemExit: 3"),
        ("from eftlite.errors import InputError\nraise InputError('x: no')", "plugged:x", "x: no"),
        ("", "no value at all", ""),
    ],
)
def test_what_cannot_be_imported_is_an_error_with_its_name(folder: Path, module: str, value: str, words: str) -> None:
    write_distribution(folder, "one", {GROUPS["drafter"]: {"mine": value, "good": "good:x"}}, {"plugged": module})
    (folder / "good.py").write_text("x = 5", encoding="utf-8")
    entry, good = registry().find("mine"), registry().find("good")
    assert entry is not None
    assert good is not None
    with pytest.raises(InputError) as caught:
        entry.load()
    assert caught.value.message.startswith(f"plugin one 1.0: drafter mine: {words}")
    assert "\n" not in caught.value.message
    assert "pip uninstall one" in caught.value.hint
    assert good.load() == 5


def test_an_interruption_is_nobodys_fault() -> None:
    with pytest.raises(KeyboardInterrupt), Entry("drafter", "mine", "m:x", distribution="one").blamed():
        raise KeyboardInterrupt


def test_bugs_of_eftlites_own_stay_what_they_are() -> None:
    with pytest.raises(ModuleNotFoundError):
        Entry("drafter", "lookup", "eftlite.nosuch:x").load()


def test_errors_for_people_keep_their_words() -> None:
    entry = Entry("drafter", "mine", "m:x", distribution="one", version="1.0")
    with pytest.raises(InputError, match=r"^plugin one 1\.0: drafter mine: cache full\. Wait\. "), entry.blamed():
        raise EngineError("cache full", "Wait")


# ---- damaged installations


@pytest.mark.parametrize("text", [b"\xff\xfe[eftlite.drafters]", b"", b"[eftlite.drafters]\nno equals sign"])
def test_a_damaged_description_hides_nobody_else(folder: Path, text: bytes) -> None:
    (bring(folder, "damaged", mine="m:x") / "entry_points.txt").write_bytes(text)
    bring(folder, "whole", good="m:x")
    assert list(registry().plugins()) == ["good"]


def test_a_distribution_without_metadata_hides_nobody_else(folder: Path) -> None:
    (bring(folder, "damaged", mine="m:x") / "METADATA").unlink()
    bring(folder, "whole", good="m:x")
    assert "good" in registry().plugins()


def test_each_fault_is_reported_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    bring(folder, lookup="m:x")
    for _ in range(3):
        registry().plugins()
    assert len(warnings(caplog)) == 1
    assert caplog.records[0].levelno == logging.WARNING
