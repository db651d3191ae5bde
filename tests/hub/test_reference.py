"""References: every way to write one, what is none, and which files they mean by llama.cpp's rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from eftlite.errors import HubError
from eftlite.hub.reference import Reference, choose, parse, title

PARTS = tuple(f"Q8_0/big-Q8_0-0000{i}-of-00003.gguf" for i in (1, 2, 3))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/repo", Reference("org/repo")),
        ("org/repo:q4_k_m", Reference("org/repo", "q4_k_m")),
        ("org/Qwen2.5-7B-GGUF:UD-Q4_K_XL", Reference("org/Qwen2.5-7B-GGUF", "UD-Q4_K_XL")),
        ("org/repo/base.gguf", Reference("org/repo", file="base.gguf")),
        ("org/repo/deep/down/base.gguf", Reference("org/repo", file="deep/down/base.gguf")),
        ("org/repo:base.Q4_0.gguf", Reference("org/repo", file="base.Q4_0.gguf")),
        ("org/repo@v1.0", Reference("org/repo", revision="v1.0")),
        ("org/repo@0123abc:Q8_0", Reference("org/repo", "Q8_0", revision="0123abc")),
        ("org/repo@refs/pr/3/deep/base.gguf", Reference("org/repo", file="deep/base.gguf", revision="refs/pr/3")),
        ("hf.co/org/repo:Q8_0", Reference("org/repo", "Q8_0")),
        ("https://huggingface.co/org/repo", Reference("org/repo")),
        (
            "https://huggingface.co/org/repo/blob/main/deep/base.gguf?download=true",
            Reference("org/repo", file="deep/base.gguf", revision="main"),
        ),
    ],
)
def test_every_way_to_write_one(text: str, expected: Reference) -> None:
    assert parse(text) == expected
    assert parse(str(expected)) == expected, "written out, it is read the same"


@pytest.mark.parametrize(
    "text",
    [
        *("base.gguf", "small/base.gguf", "./org/repo", "../org/repo", "~/org/repo", "/org/repo", "org", "org/"),
        *("C:\\models\\base.gguf", "C:/models/base.gguf", "org/repo/more", "org/repo:", "org/repo@", "org/re po"),
        *("org/repo:Q4:Q8", "https://example.org/org/repo", "", "org/repo\0", "family/mine.toml", "-org/repo"),
    ],
)
def test_anything_else_is_a_path(text: str) -> None:
    assert parse(text) is None


def test_what_exists_here_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "repo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse("org/repo") is None
    assert parse("org/other") is not None
    assert parse("org/repo/mistyped.gguf") is None
    assert parse("org/other/file.gguf") is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/Qwen2.5-7B-GGUF:Q4_K_M", "Qwen2.5-7B-GGUF:Q4_K_M"),
        ("org/repo", "repo"),
        ("org/repo/deep/base.Q4_0.gguf", "base.Q4_0"),
        ("/models/base.Q4_0.gguf", "base.Q4_0"),
        ("models/v1.5", "v1.5"),
    ],
)
def test_title(text: str, expected: str) -> None:
    assert title(text) == expected


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("o/r", ["m-Q8_0.gguf", "m-Q4_K_M.gguf", "a-Q2_K.gguf"], "m-Q4_K_M.gguf"),
        ("o/r", ["m-Q8_0.gguf", "a-Q2_K.gguf"], "m-Q8_0.gguf"),
        ("o/r", ["b-F16.gguf", "a-Q2_K.gguf", "README.md"], "a-Q2_K.gguf"),
        ("o/r", ["mmproj-m-Q8_0.gguf", "m-F16.gguf", "m.imatrix.gguf", "mtp-Q4_K_M.gguf"], "m-F16.gguf"),
        ("o/r:q5_k_m", ["m-Q4_K_M.gguf", "m.Q5_K_M.gguf"], "m.Q5_K_M.gguf"),
        ("o/r:Q2_K", ["m-Q2_K_L.gguf", "m-Q2_K.gguf"], "m-Q2_K.gguf"),
        ("o/r:F16", ["m-BF16.gguf", "m-F16.gguf"], "m-F16.gguf"),
        ("o/r:F16", ["m-BF16.gguf"], "m-BF16.gguf"),
        ("o/r:Q4_K_M", ["Q4_K_M/m.gguf", "m-Q4_K_M.gguf"], "m-Q4_K_M.gguf"),
        ("o/r:Q4_K_M", ["deep/m.Q4_K_M.gguf"], "deep/m.Q4_K_M.gguf"),
        ("o/r/M-q8_0.gguf", ["m-Q8_0.gguf"], "m-Q8_0.gguf"),
        ("o/r/m.gguf", ["M.gguf", "m.gguf"], "m.gguf"),
    ],
)
def test_which_file_is_meant(text: str, names: list[str], expected: str) -> None:
    reference = parse(text)
    assert reference is not None
    assert choose(reference, names) == (expected,)
    assert choose(reference, reversed(names)) == (expected,), "whatever order the hub lists them in"


@pytest.mark.parametrize("text", ["o/r", "o/r:Q8_0", "o/r/" + PARTS[0], "o/r/" + PARTS[2]])
def test_a_split_model_is_all_its_parts_in_order(text: str) -> None:
    reference = parse(text)
    assert reference is not None
    assert choose(reference, [*reversed(PARTS), "Q8_0/other-Q8_0-00001-of-00002.gguf.txt"]) == PARTS


@pytest.mark.parametrize(
    ("text", "names", "words"),
    [
        ("o/r:Q3_K", ["m-Q4_K_M.gguf", "m-Q8_0.gguf"], "expected a model of Q3_K, got m-Q4_K_M.gguf, m-Q8_0.gguf"),
        ("o/r/x.gguf", ["m-Q4_K_M.gguf"], "expected x.gguf, got m-Q4_K_M.gguf"),
        ("o/r", ["model.safetensors"], "expected a GGUF model, got no GGUF file. Original weights are of no use here"),
        ("o/r:Q8_0", PARTS[:2], "expected 3 parts of big-Q8_0-00001-of-00003.gguf, got 2"),
        ("o/r:Q9", [f"m{i:02}-Q4_0.gguf" for i in range(30)], "and 22 more"),
    ],
)
def test_what_is_not_there_is_said(text: str, names: list[str], words: str) -> None:
    reference = parse(text)
    assert reference is not None
    with pytest.raises(HubError) as found:
        choose(reference, names)
    assert words in str(found.value)
    assert "\n" not in str(found.value)
