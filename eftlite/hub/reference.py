"""References to models on the hub, as llama.cpp and Ollama write them, and which files they mean.

org/repo                          Q4_K_M, else Q8_0, else the first model of the repository
org/repo:Q5_K_M                   the model of this quantization; upper and lower case are the same
org/repo/folder/file.gguf         this file
org/repo@revision:Q5_K_M          at a branch, a tag or a commit; before a file too
hf.co/org/repo:Q5_K_M             the same, as Ollama writes it; an address of a page works too

Knows names only: nothing is asked, and of the disk only whether a path exists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from eftlite.errors import HubError

PREFERRED = ("Q4_K_M", "Q8_0")
# Files beside models, by llama.cpp's names for them: encoders of images, importance matrices, drafting heads.
_NO_MODELS = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
_SHOWN_FILES = 8
_HOST = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/", re.IGNORECASE)
_WORD = r"[A-Za-z0-9](?:[\w.-]*\w)?"
_FORM = re.compile(
    rf"(?P<repo>{_WORD}/{_WORD})"
    r"(?:@(?P<revision>refs/pr/\d+|[\w.-]+))?"
    r"(?::(?P<quant>[\w.-]+)|/(?:(?:blob|resolve)/(?P<page>[^/]+)/)?(?P<file>[^:?@]+\.gguf)(?:\?.*)?)?",
    re.ASCII,
)
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True)
class Reference:
    """What a reference says; str() writes it out.

    Attributes:
        repo: "org/repo".
        quant: a quantization's name, None when it is left to the rules above.
        file: path inside the repository, instead of a quantization.
        revision: branch, tag or commit; None is the repository's main branch.
    """

    repo: str
    quant: str | None = None
    file: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"{self.repo}{at}" + (f"/{self.file}" if self.file else f":{self.quant}" if self.quant else "")


def parse(text: str) -> Reference | None:
    """The reference a text is, or None for a local path: one that exists, or whose folder does, or of another form."""
    match = _FORM.fullmatch(_HOST.sub("", text, count=1))
    # org/repo cannot be told from folder/file by its form; no repository is called *.gguf.
    if match is None or match["repo"].lower().endswith((".gguf", ".toml")) or _exists(text):
        return None
    if match["file"] and _exists(str(Path(text).parent)):  # a slip of the pen in a file's name
        return None
    quant, file = match["quant"], match["file"]
    if quant is not None and quant.lower().endswith(".gguf"):
        quant, file = None, quant
    return Reference(match["repo"], quant, file, match["revision"] or match["page"])


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False


def title(text: str) -> str:
    """A short name of a model for people: a file's without its ending, or repository and quantization."""
    reference = parse(text)
    if reference is None or reference.file is not None:
        path = Path(text if reference is None else reference.file or "")
        return path.stem if path.suffix.lower() == ".gguf" else path.name
    name = reference.repo.partition("/")[2]
    return f"{name}:{reference.quant}" if reference.quant else name


def choose(reference: Reference, names: Iterable[str]) -> tuple[str, ...]:
    """The files of a repository that a reference means: one, or all parts of a split model, in order.

    Raises:
        HubError: no file is meant, or a part is missing.
    """
    known = sorted(name for name in names if name.lower().endswith(".gguf"))
    found = _named(reference.file, known) if reference.file else _quantized(reference.quant, known)
    if found is None:
        wanted = reference.file or (f"a model of {reference.quant}" if reference.quant else "a GGUF model")
        raise HubError(f"{reference.repo}: expected {wanted}, got {_listed(known)}", _hint(known))
    return _whole(reference, found, known)


def _named(file: str, known: list[str]) -> str | None:
    """The file of this path; case decides only between two that differ by it."""
    same = [name for name in known if name.lower() == file.lower()]
    return file if file in same else next(iter(same), None)


def _quantized(quant: str | None, known: list[str]) -> str | None:
    """The first model of a quantization, or by preference."""
    models = [name for name in known if _is_model(name)]
    for tag in (quant,) if quant else PREFERRED:
        # llama.cpp takes F16 from a name with BF16 if that comes first; a whole word is preferred here.
        for border in (r"(?:^|[/._-])", ""):
            pattern = re.compile(rf"{border}{re.escape(tag)}[.-]", re.IGNORECASE)
            if found := next((name for name in models if pattern.search(name)), None):
                return found
    return None if quant else next(iter(models), None)


def _is_model(name: str) -> bool:
    """Whether a file is a model or the first part of one."""
    file = name.rpartition("/")[2].lower()
    part = _PART.fullmatch(name)
    return not any(word in file for word in _NO_MODELS) and (part is None or int(part["number"]) == 1)


def _whole(reference: Reference, name: str, known: list[str]) -> tuple[str, ...]:
    """A file, or every part of the model it is a part of."""
    part = _PART.fullmatch(name)
    if part is None:
        return (name,)
    count = int(part["count"])
    parts = tuple(f"{part['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1))
    missing = [one for one in parts if one not in known]
    if missing:
        message = f"{reference.repo}: expected {count} parts of {Path(parts[0]).name}, got {count - len(missing)}"
        raise HubError(message, f"The repository lacks {missing[0]}")
    return parts


def _listed(known: list[str]) -> str:
    more = f" and {len(known) - _SHOWN_FILES} more" if len(known) > _SHOWN_FILES else ""
    return ", ".join(known[:_SHOWN_FILES]) + more if known else "no GGUF file"


def _hint(known: list[str]) -> str:
    if known:
        return "Name one of these: org/repo/file.gguf, or org/repo:QUANT"
    return "Original weights are of no use here; look for a repository whose name ends in -GGUF"
