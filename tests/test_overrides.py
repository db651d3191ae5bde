"""Settings of single members: how they are written, whom they reach, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from eftlite.errors import InputError
from eftlite.overrides import parse_overrides, with_tables
from eftlite.settings import ModelSettings

MEMBERS = {name: ModelSettings(n_threads=3) for name in ("base", "tuned", "reference", "tuned:brief")}


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("base.n_gpu_layers=20", "n_gpu_layers", 20),
        ("base.n_gpu_layers=-1", "n_gpu_layers", -1),
        ("base.n_gpu_layers=none", "n_gpu_layers", None),
        ("base.main_gpu=1", "main_gpu", 1),
        ("base.tensor_split=3,1.5", "tensor_split", (3, 1.5)),
        ("base.split_mode=row", "split_mode", "row"),
        ("base.devices=CUDA0,RPC1", "devices", ("CUDA0", "RPC1")),
        ("base.offload_kqv=false", "offload_kqv", False),
        ("base.flash_attn=on", "flash_attn", True),
        ("base.type_k=q8_0", "type_k", "q8_0"),
        ("base.type_v=q8_0", "type_v", "q8_0"),
        (" base . n_threads = 2", "n_threads", 2),
        ("base.n_threads_batch=2", "n_threads_batch", 2),
        ("base.use_mmap=no", "use_mmap", False),
        ("base.use_mlock=True", "use_mlock", True),
    ],
)
def test_every_setting_reaches_its_member(text: str, name: str, value: Any) -> None:
    found = with_tables(MEMBERS, parse_overrides([text.replace(" . ", ".").replace(" = ", "=")]))
    assert getattr(found["base"], name) == value
    assert found["tuned"] == MEMBERS["tuned"]
    assert found["base"].n_threads == (2 if name == "n_threads" else 3)


def test_a_members_name_goes_before_its_role() -> None:
    found = with_tables(MEMBERS, parse_overrides(["tuned.n_batch=8", "tuned:brief.n_batch=16"]))
    assert [own.n_batch for own in found.values()] == [512, 8, 512, 16]


def test_words_on_the_command_line_go_before_the_familys_tables() -> None:
    tables = {"base": {"n_batch": 8, "n_ubatch": 4}}
    found = parse_overrides(["base.n_batch=16"], tables)
    assert found == {"base": {"n_batch": 16, "n_ubatch": 4}}
    assert tables["base"]["n_batch"] == 8


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("n_batch=8", "--set: expected MEMBER.NAME=VALUE, got 'n_batch=8'"),
        ("base.n_batch", "--set: expected MEMBER.NAME=VALUE"),
        (".n_batch=8", "--set: expected MEMBER.NAME=VALUE"),
        ("base.n_ctx=8", "settings of base: unknown name 'n_ctx'"),
        ("base.n_batch=many", "settings of base: n_batch: expected an integer from 1"),
        ("base.type_k=q9", "settings of base: type_k: expected one of f32"),
        ("base.use_mmap=7", "settings of base: use_mmap: expected True or False"),
        ("base.tensor_split=a", "settings of base: tensor_split: expected a number"),
    ],
)
def test_what_cannot_be_set_is_named(text: str, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_overrides([text])
    assert str(caught.value).startswith(complaint)


def test_settings_for_nobody_are_refused() -> None:
    with pytest.raises(InputError, match="settings: expected base, reference, tuned, tuned:brief, got 'bse'"):
        with_tables(MEMBERS, parse_overrides(["bse.n_batch=8"]))
