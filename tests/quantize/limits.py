"""A disk that is full, as far as a process can tell: its files may not grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """Writes beyond n_bytes of a file fail in this process, as on a full disk but for the error's number."""
    import resource  # POSIX only

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def limit(n_bytes: int) -> Callable[[], None]:
    """For ``preexec_fn``: the same for a process that is started."""

    def apply() -> None:
        import resource  # POSIX only

        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))

    return apply
