"""``eftlite pull``: models of the hub into its cache, after a look at memory and disk, and what is there checked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

import click

from eftlite.cli.options import Members, naming_options
from eftlite.cli.output import Output, on_terminal
from eftlite.cli.verb import Verb
from eftlite.errors import InputError, MemoryLimitError, ModelFileError
from eftlite.settings import Family

if TYPE_CHECKING:
    from eftlite.hub import Reference, Remote


@click.command(
    "pull",
    cls=Verb,
    examples=(
        "eftlite pull --preset qwen2.5-7b",
        "eftlite pull org/repo:Q4_K_M",
        "eftlite pull --family family.toml --yes",
    ),
)
@click.argument("refs", nargs=-1, metavar="[REF]...")
@naming_options
@click.option("--yes", is_flag=True, help="Download even what will not fit into memory.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@click.pass_obj
def pull_command(output: Output, refs: tuple[str, ...], members: Members, yes: bool, as_json: bool) -> None:
    """Download models: each REF, or all that a family or preset names.

    A REF is org/repo:TYPE, org/repo/file.gguf or org/repo, with @REVISION after the repository if need be. Files go
    into the cache that other programs of Hugging Face share (HF_HOME), each held to the hash that the hub publishes.
    An interrupted download goes on where it ended; what is there already is hashed again. Nothing is downloaded when
    the models will not fit into memory, or the files on the disk.
    """
    from eftlite.hub import check_room, locate

    families = [(family, _references(family)) for family in _families(refs, members)]
    plans = [(family, {text: locate(one) for text, one in named.items()}) for family, named in families]
    found = {text: remote for _, remotes in plans for text, remote in remotes.items()}
    check_room(found.values())
    for family, remotes in () if yes else plans:
        # Of single files also adapters and the like are wanted, which nobody loads alone.
        with suppress(ModelFileError) if refs else nullcontext():
            _check_memory(family, remotes, members)
    paths = _fetch(output, found)
    if as_json:
        output.json({"models": [_described(text, remote) for text, remote in found.items()]})
    else:
        width = max(map(len, paths))
        for text, path in paths.items():
            output.answer(f"{text:{width}}  {path}", newline=True)  # not wrapped: paths are there to be copied


def _families(refs: tuple[str, ...], members: Members) -> list[Family]:
    """What is to be had: a family of one for each reference, or the one that the options name."""
    from eftlite.hub import title

    named = any((members.family, members.preset, members.base, members.tuned, members.reference, members.adapter))
    if bool(refs) == named:
        message = "pull: expected references or a family, got " + ("both" if refs else "neither")
        raise InputError(message, "eftlite presets list shows families by name")
    return [Family(title(text), text) for text in refs] or [members.resolve()]


def _references(family: Family) -> dict[str, Reference]:
    """The family's references, one at least."""
    from eftlite.hub import references

    found = references(family)
    if not found:
        hint = "A reference is org/repo:TYPE or org/repo/file.gguf"
        raise InputError(f"{family.base}: expected a reference of the hub, got a path of this machine", hint)
    return found


def _check_memory(family: Family, remotes: Mapping[str, Remote], members: Members) -> None:
    """Refuse what could not be loaded here."""
    from eftlite.hub import preview
    from eftlite.loading import check_fits

    try:
        check_fits(*preview(family, remotes), members.settings(family), members.n_ctx, n_slots=1)
    except MemoryLimitError as error:
        raise MemoryLimitError(error.message, f"{error.hint}; --yes downloads all the same") from None


def _fetch(output: Output, remotes: Mapping[str, Remote]) -> dict[str, str]:
    """Have every model here.

    Returns:
        Paths by reference.
    """
    from eftlite.hub import fetch

    models = {remote.path: remote for remote in remotes.values()}  # two references may mean one model
    total = sum(remote.n_bytes for remote in models.values())
    with _progress(output, total) as report:
        for remote in models.values():
            fetch(remote, report, verify=True)
    return {text: str(remote.path) for text, remote in remotes.items()}


@contextmanager
def _progress(output: Output, total: int) -> Iterator[Callable[[str, int], None]]:
    """A bar over all bytes on a terminal's stderr; elsewhere a line for each file."""
    if not on_terminal(sys.stderr):
        shown: set[str] = set()

        def note(name: str, _: int) -> None:
            if name not in shown:
                shown.add(name)
                output.note(name)

        yield note
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=output.console(err=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda name, n_bytes: bar.update(task, description=name.rpartition("/")[2], advance=n_bytes)


def _described(text: str, remote: Remote) -> dict[str, object]:
    """A model that is here, for programs."""
    return {
        "reference": text,
        "repository": remote.repo,
        "revision": remote.revision,
        "commit": remote.commit,
        "path": str(remote.path),
        "bytes": remote.n_bytes,
        "files": [{"name": file.name, "bytes": file.n_bytes, "hash": file.hash} for file in remote.files],
    }
