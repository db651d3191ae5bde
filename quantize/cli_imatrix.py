"""``eftlite quantize imatrix``: an importance matrix, computed on a text."""

from __future__ import annotations

import time
from pathlib import Path

import click

from eftlite.cli.output import Output
from eftlite.cli.verb import Verb
from eftlite.errors import InputError
from eftlite_quantize.cli_bar import progress_bar
from eftlite_quantize.cli_options import Chunking, Running, chunk_options, running_options


@click.command(
    "imatrix",
    cls=Verb,
    examples=(
        "eftlite quantize imatrix model-f16.gguf calibration.txt -o imatrix.gguf",
        "eftlite quantize imatrix model-f16.gguf conversations.jsonl --chat",
    ),
)
@click.argument("path", metavar="MODEL")
@click.argument("text", metavar="TEXT")
@click.option(
    "--output",
    "-o",
    "target",
    type=click.Path(path_type=Path),
    default="imatrix.gguf",
    show_default=True,
    metavar="FILE",
    help="Where it goes.",
)
@chunk_options
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@running_options
@click.pass_obj
def imatrix_command(
    output: Output,
    /,
    path: str,
    text: str,
    target: Path,
    chunking: Chunking,
    force: bool,
    as_json: bool,
    running: Running,
) -> None:
    """Compute what MODEL's weights are multiplied with on TEXT, on average: an importance matrix.

    Some types need one (eftlite quantize produce --help), others come nearer to the original with it. TEXT should be
    like what the model will be used for, some ten thousand tokens or more, and not the text that quantizations are
    compared on. The file is the same as llama-imatrix's.
    """
    from eftlite.llama import Model
    from eftlite_quantize import texts
    from eftlite_quantize.collector import collect
    from eftlite_quantize.imatrix import ImportanceMatrix, gguf_package, write_imatrix

    gguf_package()  # an error now is better than after an hour
    if target.exists() and not force:
        raise InputError(f"{target.name}: there is such a file", "Replace it with --force, or choose another with -o")
    if not target.absolute().parent.is_dir():
        raise InputError(f"-o: expected a file in a folder that is there, got {str(target)!r}")
    n_ctx = 512 if chunking.n_ctx is None else chunking.n_ctx
    settings = running.settings
    with progress_bar(output) as report:
        model = Model(path, settings, Path(path).stem, lambda done: report("loading", round(100 * done), 100))
        try:
            tokens = (texts.chat_tokens if chunking.chat else texts.text_tokens)(model, text)
            chunks = texts.chunks(tokens, n_ctx, model.vocabulary().add_bos, model.bos, chunking.n_chunks)
            began = time.monotonic()
            entries = collect(model, chunks, lambda done: report("chunks", done, len(chunks)))
        finally:
            model.close()
    seconds = time.monotonic() - began
    write_imatrix(target, ImportanceMatrix(entries, (Path(text).name,), len(chunks), n_ctx))
    if as_json:
        found = {"entries": len(entries), "chunks": len(chunks), "tokens": chunks.size, "seconds": round(seconds, 3)}
        output.json({"file": target.name, **found})
    else:
        output.pairs([(target.name, f"{len(entries)} tensors, {chunks.size} tokens, {seconds:.1f} s")])
