"""``eftlite worker``: lend this machine's devices to a program on another one."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path
from typing import NoReturn

import click

from eftlite.cli.output import Output
from eftlite.cli.verb import Verb
from eftlite.errors import EngineError, InputError

HOST, PORT = "127.0.0.1", 50052  # as in rpc.py, which --help need not import


@click.command(
    "worker",
    cls=Verb,
    examples=(
        "eftlite worker",
        "eftlite worker --host 192.168.1.20 --cache",
        "eftlite chat --family big.toml --rpc 192.168.1.20:50052,192.168.1.21:50052",
    ),
)
@click.option("--host", default=HOST, show_default=True, help="IPv4 address to listen on; a private one.")
@click.option("--port", "-p", type=click.IntRange(1, 65535), default=PORT, show_default=True, help="Port.")
@click.option("--device", "-d", metavar="NAME[,NAME]", help="Devices to lend.  [default: the GPUs, or else the CPU]")
@click.option("--threads", "-t", type=click.IntRange(1, 512), metavar="N", help="Threads.  [default: physical cores]")
@click.option("--cache", is_flag=True, help="Keep large tensors on disk, so that they are sent once.")
@click.option("--allow-public", is_flag=True, help="Listen on a public address too, or on all (0.0.0.0).")
@click.pass_obj
def worker_command(
    output: Output, host: str, port: int, device: str | None, threads: int | None, cache: bool, allow_public: bool
) -> None:
    """Lend this machine's devices to a program elsewhere.

    Runs llama.cpp's RPC server. Another machine names it with --rpc and has the base's layers computed here, while its
    small models stay there; the models' files are needed there only.

    The connection is neither authenticated nor encrypted, and whoever reaches the port can make this process do
    anything. Use it on networks you trust, or through SSH or a VPN.
    """
    _check_address(host, port, allow_public)
    from eftlite.llama import library
    from eftlite.member import physical_cores
    from eftlite.places import cache_folder
    from eftlite.remote import device_list, lent_by_default, require

    require()
    library.open()  # its log is ours from here on
    names = [name.strip() for name in device.split(",")] if device else lent_by_default()
    device_list(names)
    folder = cache_folder() / "rpc" if cache else None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    _greet(output, host, port, names, folder)
    _serve(output, host, port, names, threads or physical_cores(), folder)


def _check_address(host: str, port: int, allow_public: bool) -> None:
    """InputError for an address that anybody may reach, unless that is meant; EngineError for one that is not free."""
    from eftlite.rpc import is_private

    if not is_private(host) and not allow_public:
        raise InputError(
            f"--host {host}: expected an address of this machine or of a private network",
            "Whoever reaches a worker can take it over. If that is nobody, say --allow-public",
        )
    try:
        with socket.socket() as listener:  # llama.cpp would not say why it cannot
            if os.name == "posix":  # elsewhere the option lets two programs share a port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen()
    except OSError as error:
        reason = error.strerror or error
        raise EngineError(f"worker: cannot listen on {host}:{port} ({reason})", "Choose another --port") from None


def _greet(output: Output, host: str, port: int, names: list[str], cache: Path | None) -> None:
    """What is lent, to whom, and how it is used."""
    from eftlite.llama import BINDING_VERSION, devices
    from eftlite.rpc import PROTOCOL

    known = {found["name"]: found for found in devices()}
    lent = [
        f"{name} ({known[name]['description'].strip()}, {known[name]['free_bytes'] / 2**30:.1f} GiB free)"
        for name in names
    ]
    version = ".".join(map(str, PROTOCOL))
    output.note(f"Lending {', '.join(lent)} on {host}:{port}.")
    output.note(f"RPC protocol {version}, llama-cpp-python {BINDING_VERSION}: the other machine needs the same.")
    if cache is not None:
        output.note(f"Large tensors are kept in {cache}.")
    output.note("Not authenticated, not encrypted: whoever reaches this port can take this process over.")
    output.note(f"Use it with: --rpc {host}:{port}   Ctrl+C ends the worker.")


def _serve(output: Output, host: str, port: int, names: list[str], n_threads: int, cache: Path | None) -> NoReturn:
    """Serve until Ctrl+C; ends the process."""
    from eftlite.remote import serve, watch_clients

    code, watched = 1, False
    _silence_stdout()
    server = threading.Thread(target=serve, args=(host, port, names, n_threads, cache), daemon=True)
    try:
        server.start()
        while server.is_alive():  # in short pieces, since on Windows no signal ends a longer wait
            server.join(0.2)
            watched = watched or watch_clients(host, port)
        output.error(f"worker: llama.cpp could not listen on {host}:{port}")
    except KeyboardInterrupt:
        code = 0
    sys.stderr.flush()
    os._exit(code)  # llama.cpp's server has no end, and Python's own would tear its libraries from under it


def _silence_stdout() -> None:
    """llama.cpp prints a line there for each connection, several of which are one program."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
