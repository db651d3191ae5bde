"""Something that listens where an RPC worker is expected: one that knows the first words, and others."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Play = Callable[[socket.socket], None]
HELLO, DEVICE_COUNT, DEVICE_MEMORY = 14, 15, 11


def worker(
    version: tuple[int, int, int] = (7, 0, 0), memory: tuple[tuple[int, int], ...] = ((3 << 30, 4 << 30),)
) -> Play:
    """Answers as llama.cpp's server does, until the other side has left."""

    def play(connection: socket.socket) -> None:
        while head := _take(connection, 9):
            command, size = struct.unpack("<BQ", head)
            body = _take(connection, size)
            if command == DEVICE_MEMORY:
                reply = struct.pack("<2Q", *memory[struct.unpack("<I", body)[0]])
            else:
                reply = {HELLO: struct.pack("<3Bx24x", *version), DEVICE_COUNT: struct.pack("<I", len(memory))}[command]
            connection.sendall(struct.pack("<Q", len(reply)) + reply)

    return play


def closes(connection: socket.socket) -> None:
    """Takes what is said and leaves, as older versions do."""
    _take(connection, 33)


def web(connection: socket.socket) -> None:
    """A server of another kind."""
    _take(connection, 33)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


@contextmanager
def listening(play: Play | None) -> Iterator[str]:
    """Play to everyone who connects, one after the other; with None nobody is ever answered. Gives the endpoint."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if play is not None:
            threading.Thread(target=_serve, args=(listener, play), daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)  # wakes the thread


def _serve(listener: socket.socket, play: Play) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, suppress(OSError):  # whoever asked may leave in the middle
            play(connection)


def _take(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := connection.recv(size - len(data))):
        data += part
    return data
