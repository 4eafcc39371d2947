"""The native runtime beside the model it was trained as, and beside the definition of sampling."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from polychron import _native, limits, models, runtime
from polychron.errors import InputError
from polychron.runtime import SamplingOptions
from polychron.runtime.sampling import Sampler
from polychron.runtime.text_stream import score_progressively
from polychron.storage import TensorFile
from polychron.training import score

from .conftest import COUNTED, MODELS, SavedModel, random_model, random_text, save_model

Saved = Callable[[str], SavedModel]
KERNELS = _native.available_kernels()


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest, monkeypatch):
    before = _native.current_kernels()
    monkeypatch.setenv("POLYCHRON_KERNEL", request.param)
    yield request.param
    _native.use_kernels(before)


def streamed_logits(model: runtime.Model, text: bytes) -> np.ndarray:
    stream = model.stream()
    logits = []
    for byte in text:
        stream.read(bytes([byte]))
        logits.append(stream.logits())
    return np.stack(logits)


def tokens(model: runtime.Model, text: bytes) -> torch.Tensor:
    return torch.from_numpy(model.vocabulary.encode(text).astype(np.int64))


@pytest.mark.parametrize("name", [*MODELS, *COUNTED])
def test_logits_are_those_of_the_training_model_bit_for_bit(name: str, saved: Saved, kernel: str):
    trained, folder = saved(name)
    model = runtime.load(folder)
    # A transformer's forward pass is a window; further than that only a delay model's goes.
    text = random_text(getattr(trained.config, "context", 700))
    expected = trained(tokens(model, text)[None])[0].detach().numpy()
    assert np.unique(expected).size > 50
    assert np.array_equal(streamed_logits(model, text).view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("name", ["transformer", "attention only"])
def test_beyond_its_window_a_transformer_goes_on_as_in_training(name: str, saved: Saved):
    trained, folder = saved(name)
    model = runtime.load(folder)
    text = random_text(400)
    state = trained.start()
    stream = model.stream()
    for byte in text:
        logits, state = trained.advance(tokens(model, bytes([byte])), state)
        stream.read(bytes([byte]))
        assert np.array_equal(stream.logits(), logits.numpy())


@pytest.mark.parametrize("name", [*MODELS, *COUNTED])
def test_a_prompt_is_read_as_its_bytes_one_by_one(name: str, saved: Saved):
    _, folder = saved(name)
    model = runtime.load(folder)
    text = random_text(333)
    whole, parts = model.stream(), model.stream()
    whole.read(text)
    for start in range(0, len(text), 100):
        parts.read(text[start : start + 100])
    assert np.array_equal(whole.logits(), parts.logits())
    whole.reset()
    whole.read(text)
    assert np.array_equal(whole.logits(), parts.logits())


@pytest.mark.parametrize("name", [*MODELS, *COUNTED])
@pytest.mark.parametrize("n_bytes", [2, 9, 13, 40, 331])
def test_a_text_costs_what_it_costs_in_training(name: str, n_bytes: int, saved: Saved):
    trained, folder = saved(name)
    model = runtime.load(folder)
    text = random_text(n_bytes)
    *_, (nats, n_scored) = score_progressively(model, text)
    expected = score(trained, model.vocabulary.encode(text), model.vocabulary)
    assert n_scored == expected.n_bytes == n_bytes - 1
    assert nats == pytest.approx(expected.nats, rel=1e-12)


def test_a_text_of_one_byte_cannot_be_scored(saved: Saved):
    _, folder = saved("delay")
    with pytest.raises(InputError, match="at least 2 bytes"):
        list(score_progressively(runtime.load(folder), b"a"))


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(seed=3),
        SamplingOptions(temperature=0.7, top_p=0.9, seed=2**63 + 5),
        SamplingOptions(temperature=30.0, top_p=0.4),
        SamplingOptions(temperature=1e-300),
        SamplingOptions(temperature=1e300),
        SamplingOptions(temperature=0.0, top_p=0.5),
        SamplingOptions(top_p=1e-9),
    ],
)
def test_native_draws_are_those_of_the_definition(options: SamplingOptions, saved: Saved, kernel: str):
    _, folder = saved("delay")
    model = runtime.load(folder)
    sampler = Sampler(
        temperature=options.temperature, top_p=options.top_p, seed=options.seed, excluded=[model.vocabulary.unseen_id]
    )
    stream, reader = model.stream(), model.stream()
    stream.start(b"abc")
    reader.start(b"abc")
    text = stream.generate(200, options)
    for byte in text:
        assert model.vocabulary.decode([sampler(reader.logits())]) == bytes([byte])
        reader.read(bytes([byte]))


@pytest.mark.parametrize("name", ["two delay layers", "contexts"])
def test_a_text_does_not_depend_on_the_pieces_it_is_written_in_or_on_other_streams(name: str, saved: Saved):
    _, folder = saved(name)
    model = runtime.load(folder)
    options = [SamplingOptions(seed=seed) for seed in range(5)]
    alone = []
    for some in options:
        stream = model.stream()
        stream.start(b"in ")
        alone.append(b"".join(stream.pieces(700, some)))
    for threads in (1, 3):
        streams = [model.stream() for _ in options]
        for stream in streams:
            stream.start(b"in ")
        assert runtime.generate_many(streams, 700, options, threads=threads) == alone
    assert len(set(alone)) == 5


def test_streams_are_not_mixed_up(saved: Saved):
    _, folder = saved("delay")
    model, other = runtime.load(folder), runtime.load(folder)
    stream = model.stream()
    with pytest.raises(ValueError, match="nothing has been read"):
        stream.generate(1)
    with pytest.raises(ValueError, match="nothing has been read"):
        stream.logits()
    stream.read(b"a")
    with pytest.raises(ValueError, match="must differ"):
        runtime.generate_many([stream, stream], 1, [SamplingOptions()] * 2)
    with pytest.raises(ValueError, match="another model's"):
        other.stream().sampler().draw(stream.native)


@pytest.mark.parametrize("name", ["delay", "transformer", "recent contexts"])
def test_threads_take_turns_with_a_stream_and_a_sampler(name: str, saved: Saved):
    _, folder = saved(name)
    model = runtime.load(folder)
    shared, alone = model.stream(), model.stream()
    text = random_text(20000)
    with ThreadPoolExecutor(4) as pool:
        for read in [pool.submit(shared.read, text) for _ in range(4)]:
            read.result()
        alone.read(4 * text)
        assert np.array_equal(shared.logits(), alone.logits())
        sampler, its = shared.sampler(), alone.sampler()
        written = [pool.submit(shared.write, 2000, sampler) for _ in range(4)]
        assert {piece.result() for piece in written} == {alone.write(2000, its) for _ in range(4)}


def test_a_sampler_keeps_its_model(saved: Saved):
    _, folder = saved("delay")
    model = runtime.load(folder)
    before = sys.getrefcount(model.native)
    sampler = model.stream().sampler()
    during = sys.getrefcount(model.native)
    del sampler
    assert (during, sys.getrefcount(model.native)) == (before + 1, before)


def test_logits_that_are_not_finite_are_refused(saved: Saved):
    _, folder = saved("readout alone")
    path = next(folder.glob("weights*"))
    content = bytearray(path.read_bytes())
    entry = TensorFile(path).entries["model.readout.synaptic_vectors"]
    content[entry.begin : entry.end] = np.full((entry.end - entry.begin) // 4, np.nan, np.float32).tobytes()
    path.write_bytes(content)
    stream = runtime.load(folder).stream()
    stream.read(b"abc")
    with pytest.raises(InputError, match="not finite"):
        stream.generate(5)


def test_neither_torch_nor_numpy_nor_pydantic_is_loaded(saved: Saved):
    _, folder = saved("transformer")
    script = (
        "import sys; from polychron import runtime; stream = runtime.load(sys.argv[1]).stream(); stream.start(b'a'); "
        "stream.generate(50); print(sorted({'torch', 'numpy', 'pydantic', 'typer'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_generating_from_the_command_line_does_not_load_torch(saved: Saved):
    _, folder = saved("delay")
    script = (
        "import sys; from polychron.cli import main; assert main(['generate', sys.argv[1], 'a', '--bytes', '5']) == 0; "
        "print(sorted({'torch', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


def test_a_kernel_that_is_not_there_is_refused(saved: Saved, monkeypatch):
    _, folder = saved("delay")
    monkeypatch.setenv("POLYCHRON_KERNEL", "abacus")
    with pytest.raises(InputError, match="POLYCHRON_KERNEL must be one of reference, scalar"):
        runtime.load(folder)


def test_no_model_no_runtime(tmp_path: Path):
    with pytest.raises(InputError, match="has no checkpoint"):
        runtime.load(tmp_path)


@pytest.mark.parametrize(
    ("config", "asked_for"),
    [
        (
            models.DelayConfig(
                vocabulary_size=28, n_neurons=200, n_tables=1, n_comparisons=1, max_delay=65_535,
                delay_distribution="uniform", readout_n_tables=1, readout_n_comparisons=1,
            ),
            "what a text needs under",
        ),
        (
            models.TransformerConfig(
                vocabulary_size=28, context=65_536, n_neurons=4, n_layers=1, n_heads=1, n_tables=60, n_comparisons=1,
                n_position_bits=0, ffn=None,
            ),
            "the weights in",
        ),
    ],
    ids=["a long delay", "a long window"],
)  # fmt: skip
def test_a_small_file_that_asks_for_much_memory_is_refused(config, asked_for: str, tmp_path: Path, monkeypatch):
    folder = save_model(random_model(config), tmp_path / "run")
    (weights,) = folder.glob("weights-*")
    assert weights.stat().st_size < 1 << 20
    monkeypatch.setattr(limits, "available_memory", lambda: 15 << 20)
    with pytest.raises(InputError, match=asked_for):
        runtime.load(folder)
