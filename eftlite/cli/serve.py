"""``eftlite serve``: an OpenAI-compatible server with a page."""

from __future__ import annotations

import logging
import os
import webbrowser
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eftlite.cli.options import Generation, Members, knob_options, member_options
from eftlite.cli.output import Output
from eftlite.cli.verb import Verb
from eftlite.errors import EFTError, InputError
from eftlite.settings import Family

if TYPE_CHECKING:
    from eftlite.history import History
    from eftlite.server.protocol import LoadRequest

HOST, PORT = "127.0.0.1", 8484  # as in server/listen.py, which --help must not import


@click.command(
    "serve",
    cls=Verb,
    examples=(
        "eftlite serve --open",
        "eftlite serve --base 7B.gguf --tuned 1B-instruct.gguf --reference 1B.gguf --n-ctx 8192",
        "EFTLITE_API_KEY=secret eftlite serve --host 0.0.0.0 --allow-host my-desktop.lan",
    ),
)
@click.option("--host", default=HOST, show_default=True, help="Address to listen on; other than loopback needs a key.")
@click.option("--port", "-p", type=int, default=PORT, show_default=True, help="Port; 0 takes any free one.")
@click.option("--open", "wants_browser", is_flag=True, help="Open the page in a browser.")
@click.option("--slots", type=int, default=4, show_default=True, metavar="N", help="Answers at a time.")
@click.option("--queue", type=int, default=128, show_default=True, metavar="N", help="Requests that may wait.")
@click.option("--api-key", multiple=True, metavar="KEY", help="Require a key; repeatable. Also EFTLITE_API_KEY.")
@click.option("--api-key-file", type=click.Path(path_type=Path), metavar="FILE", help="Keys, one on each line.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="One more name of this server; repeatable.")
@click.option("--allow-origin", multiple=True, metavar="URL", help="One more page that may use it; repeatable.")
@click.option("--no-history", is_flag=True, help="Keep the page's conversations only until the server ends.")
@member_options
@knob_options
@click.pass_obj
def serve_command(
    output: Output,
    host: str,
    port: int,
    wants_browser: bool,
    slots: int,
    queue: int,
    api_key: tuple[str, ...],
    api_key_file: Path | None,
    allow_host: tuple[str, ...],
    allow_origin: tuple[str, ...],
    no_history: bool,
    members: Members,
    generation: Generation,
) -> None:
    """Serve the family to programs and browsers.

    Programs that speak OpenAI's interface find it under /v1; the page for people is at /. Models load while the server
    is up already; until then requests wait. Ctrl+C ends it.
    """
    if not 1 <= slots <= 256 or not 0 <= queue <= 1 << 16:
        raise InputError(f"--slots, --queue: expected 1 to 256 and 0 to 65536, got {slots} and {queue}")
    family = members.resolve()
    request = _load_request(members, generation, family, slots)
    from eftlite.server.app import make_app, page_paths
    from eftlite.server.engine import WorkerEngine
    from eftlite.server.guards import Rules
    from eftlite.server.keys import collect_keys
    from eftlite.server.listen import bind, serve, url_of

    logging.basicConfig(format="%(levelname)s: %(message)s")  # warnings and worse, on stderr
    keys = collect_keys(api_key, api_key_file, os.environ)
    rules = Rules(host, keys, allow_host, allow_origin, pages=page_paths())
    with bind(host, port, keys) as listener, _history(output, no_history) as history:
        engine = WorkerEngine(request, max_waiting=queue)
        serve(make_app(engine, history), listener, rules, _greeting(output, family, url_of(listener), wants_browser))


def _load_request(members: Members, generation: Generation, family: Family, slots: int) -> LoadRequest:
    """What the engine's process is to load; values are checked here, before it starts."""
    from eftlite.server.protocol import LoadRequest

    knobs = generation.knobs(family)
    deltas = tuple(replace(delta, alpha=alpha) for delta, alpha in zip(family.deltas, knobs.alphas, strict=True))
    return LoadRequest(
        family=replace(family, deltas=deltas),
        n_ctx=members.n_ctx,
        n_slots=slots,
        beta=knobs.beta,
        conservative_p=knobs.conservative_p,
        speculative=generation.speculative,
        settings=members.settings(family),
        prompt_style=generation.prompt_style,
    )


def _history(output: Output, is_off: bool) -> History:
    """The conversations' file; when it cannot be used the server still runs, and forgets them at its end."""
    from eftlite.history import History

    if not is_off:
        try:
            return History()
        except EFTError as error:
            output.error(str(error))
            output.note("Conversations will be kept only until the server ends.")
    return History.temporary()


def _greeting(output: Output, family: Family, url: str, wants_browser: bool) -> Callable[[], None]:
    def greet() -> None:
        output.note(f"{family.name} is loading. Page: {url}   OpenAI interface: {url}v1   Ctrl+C ends the server.")
        if wants_browser:
            webbrowser.open(url)

    return greet
