"""A position in a text: read bytes, ask what comes next, write on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from polychron.errors import InputError
from polychron.runtime.extension import require_native
from polychron.runtime.options import SamplingOptions

if TYPE_CHECKING:
    from polychron.runtime.model import Model

NOT_FINITE = "the model's logits are not finite: its weights are damaged or its training diverged (lower --rate)"
_PIECE = 1 << 15  # bytes scored between two reports


class TextStream:
    """A place in a text, and what the model must remember of what came before: nothing that grows.

    A byte that the vocabulary does not have is read as unseen. Float logits equal those of the model's forward pass
    over the whole text, bit for bit; docs/runtime.md defines those of an int8 model.

    Args:
        model: it may have any number of streams.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.native = require_native().RuntimeStream(model.native)

    def reset(self) -> None:
        """Go back to before the first byte."""
        self.native.reset()

    def read(self, text: bytes) -> None:
        """Read further bytes."""
        self.native.read(self.model.vocabulary.ids_of(text))

    def start(self, prompt: bytes) -> None:
        """Read a prompt from the beginning; an empty one is replaced by the vocabulary's start token."""
        self.reset()
        ids = self.model.vocabulary.ids_of(prompt)
        self.native.read(ids or bytes([self.model.vocabulary.start_id]))

    def logits(self) -> Any:
        """Logits of the next byte: a numpy array (K,) float32.

        Raises:
            ValueError: nothing has been read yet.
        """
        import numpy as np

        out = np.empty(self.model.vocabulary.size, dtype=np.float32)
        self.native.logits(out)
        return out

    def units(self) -> Any:
        """An int8 model's logits before they become float32: (K,) int32, of which each counts 2^-logit_bits nats."""
        import numpy as np

        out = np.empty(self.model.vocabulary.size, dtype=np.int32)
        self.native.units(out)
        return out

    def generate(self, n_bytes: int, options: SamplingOptions | None = None) -> bytes:
        """Write ``n_bytes`` bytes after what has been read, each read in turn.

        Raises:
            InputError: the logits are not finite.
            ValueError: nothing has been read yet.
        """
        return b"".join(self.pieces(n_bytes, options))

    def pieces(self, n_bytes: int, options: SamplingOptions | None = None) -> Iterator[bytes]:
        """The same as it comes: the first byte at once, then more and more at a time."""
        sampler = self.sampler(options)
        size = 1
        while n_bytes > 0:
            piece = min(n_bytes, size)
            yield self.write(piece, sampler)
            n_bytes -= piece
            size = min(2 * size, 1 << 12)

    def write(self, n_bytes: int, sampler: Any) -> bytes:
        """The next ``n_bytes`` bytes by a sampler, from `sampler`, that goes on where it was.

        Raises:
            InputError: the logits are not finite.
            ValueError: nothing has been read yet.
        """
        return _generate([self], [sampler], n_bytes, 1)[0]

    def sampler(self, options: SamplingOptions | None = None) -> Any:
        """A native sampler for this stream's model."""
        options = options or SamplingOptions()
        return require_native().RuntimeSampler(self.model.native, options.temperature, options.left_out, options.seed)


def generate_many(
    streams: Sequence[TextStream], n_bytes: int, options: Sequence[SamplingOptions], threads: int = 1
) -> list[bytes]:
    """Each stream's next ``n_bytes`` bytes; no result depends on the number of threads.

    Args:
        streams: of one model or several, all of them different.
        n_bytes: for each.
        options: one for each stream.
        threads: streams written at the same time at most.

    Raises:
        InputError: a model's logits are not finite.
        ValueError: a stream given twice, or one that has read nothing.
    """
    samplers = [stream.sampler(some) for stream, some in zip(streams, options, strict=True)]
    return _generate(list(streams), samplers, n_bytes, threads)


def _generate(streams: list[TextStream], samplers: list[Any], n_bytes: int, threads: int) -> list[bytes]:
    texts = require_native().runtime_generate([stream.native for stream in streams], samplers, n_bytes, threads)
    if texts is None:
        raise InputError(NOT_FINITE)
    return [stream.model.vocabulary.bytes_of(ids) for stream, ids in zip(streams, texts, strict=True)]


def score_progressively(model: Model, text: bytes) -> Iterator[tuple[float, int]]:
    """What a text costs, piece by piece: nats so far, and bytes scored so far.

    Every byte after the first is scored once with as much context as the model can use, as `polychron.training.score`
    does: a delay model reads the text as one stream, a transformer reads windows that overlap by half. An unseen byte
    costs -log p(unseen) + log(number of such byte values).

    Raises:
        InputError: fewer than two bytes.
    """
    if len(text) < 2:
        raise InputError(f"a text to score needs at least 2 bytes, for the first has no context; got {len(text)}")
    vocabulary = model.vocabulary
    ids = vocabulary.ids_of(text)
    stream = TextStream(model).native
    context = model.settings.context
    nats = 0.0
    if context is None:
        for start in range(0, len(ids), _PIECE):
            piece = ids[start : start + _PIECE]
            nats += stream.score(piece) + vocabulary.unseen_nats * vocabulary.count_unseen(piece)
            if start == 0:  # the first byte is not scored
                nats -= vocabulary.unseen_nats * vocabulary.count_unseen(ids[:1])
            yield nats, start + len(piece) - 1
        return
    n = len(ids) - 1
    done = 0
    while done < n:
        # The first window is scored whole, each further one in its last half.
        end = min(n, context if done == 0 else done + context // 2)
        begin = max(0, end - context)
        stream.reset()
        stream.read(ids[begin : done + 1])
        nats += stream.score(ids[done + 1 : end + 1])
        nats += vocabulary.unseen_nats * vocabulary.count_unseen(ids[done + 1 : end + 1])
        done = end
        yield nats, done
