"""``polychron generate``: continue a prompt.

Nothing on the way to the first byte loads PyTorch, numpy or pydantic, which take longer than all the rest.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from polychron.cli.output import ByteStream, print_json
from polychron.cli.unfinished import note_unfinished
from polychron.errors import UnsupportedModelError
from polychron.runtime import SamplingOptions, load
from polychron.runtime.extension import native


def run_generate(
    directory: Path,
    prompt: bytes,
    *,
    n_bytes: int,
    temperature: float,
    top_p: float,
    seed: int,
    threads: int | None,
    json: bool,
) -> None:
    """Write the prompt and ``n_bytes`` bytes after it to standard output, each as soon as it is drawn.

    ``threads`` is PyTorch's, of a model that it runs; the runtime writes a text with one.
    """
    options = SamplingOptions(temperature=temperature, top_p=top_p, seed=seed)
    note_unfinished(directory)
    pieces = (_pieces if native is not None else _pieces_in_pytorch)(directory, prompt, n_bytes, options, threads)
    if json:
        next(pieces)
        began = time.perf_counter()
        text = b"".join(pieces)
        seconds = time.perf_counter() - began
        print_json(
            {
                "prompt": prompt.decode("utf-8", errors="replace"),
                "text": text.decode("utf-8", errors="replace"),
                "bytes": len(text),
                "bytes_per_second": len(text) / max(seconds, 1e-9),
            }
        )
        return
    next(pieces)
    output = ByteStream(sys.stdout)
    output.write(prompt)
    for piece in pieces:
        output.write(piece)
    output.close()


# So few that laying out counted contexts would take longer than it saves.
_FEW_BYTES = 100_000


def _pieces(
    directory: Path, prompt: bytes, n_bytes: int, options: SamplingOptions, threads: int | None
) -> Iterator[bytes]:
    """Nothing when the model is loaded, then what it writes."""
    try:
        stream = load(directory, soon=n_bytes <= _FEW_BYTES).stream()
    except UnsupportedModelError:
        yield from _pieces_in_pytorch(directory, prompt, n_bytes, options, threads)
        return
    yield b""
    stream.start(prompt)
    yield from stream.pieces(n_bytes, options)


def _pieces_in_pytorch(
    directory: Path, prompt: bytes, n_bytes: int, options: SamplingOptions, threads: int | None
) -> Iterator[bytes]:
    """The same for models that the runtime does not run, and without the extension."""
    import torch

    from polychron.runtime.sampling import Sampler, generate
    from polychron.runtime.stream import Stream
    from polychron.training.checkpoint import open_checkpoint

    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = open_checkpoint(directory)
    stream = Stream(checkpoint.load_model())
    yield b""
    sampler = Sampler(
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
        excluded=[checkpoint.vocabulary.unseen_id],
    )
    yield from generate(stream, checkpoint.vocabulary, prompt, n_bytes, sampler)
