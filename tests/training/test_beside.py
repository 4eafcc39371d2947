"""Training beside counted tables: what stands beside, how a run comes to it, and what it learns."""

from __future__ import annotations

import itertools
import json
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

from polychron import optim
from polychron.models import DelayConfig, DelayLM
from polychron.nn import ContextTables
from polychron.ops.recent import N_CELLS
from polychron.training import beside
from polychron.training.blend import Belief
from polychron.training.fit_recent import USUAL_CELLS

from .counted_text import BYTE, K, text_of

SHAPE = {"length": 16, "batch": 4, "seed": 0}


def belief(*, recent: bool) -> Belief:
    depths = [[0.1 * (k + 1) for k in range(8)], [0.05 * (k + 1) for k in range(8)], [0.2] * 8]
    cells = torch.tensor(USUAL_CELLS).reshape(5, 2, 8) if recent else None
    return Belief(1.0, depths, cells)


@pytest.mark.parametrize("recent", [False, True])
@pytest.mark.parametrize("parts", [2, 3])
def test_what_stands_beside_was_counted_elsewhere(recent: bool, parts: int):
    text, segments = text_of(1200), [(0, 500), (550, 1150)]
    windows = beside.windows_beside(text, segments, BYTE, 3, belief(recent=recent), parts, **SHAPE)
    expected = torch.full((1200, K), float("nan"))
    for first, last in itertools.pairwise(len(text) * part // parts for part in range(parts + 1)):
        outside = [(a, min(b, first)) for a, b in segments if a < min(b, first)]
        outside += [(max(a, last), b) for a, b in segments if max(a, last) < b]
        tables = ContextTables.of_text(text, outside, BYTE, 3)
        tables.scale(belief(recent=recent).depths)
        tables.set_recent(belief(recent=recent).cells)
        for a, b in segments:
            a, b = max(a, first), min(b, last)
            if a < b:
                expected[a:b] = tables(torch.from_numpy(text[None, a:b].astype(np.int64)))[0]
    seen = set()
    for step in range(40):
        tokens, targets, base = windows.batch(step)
        assert base.dtype == torch.float32
        for b, start in enumerate(windows.starts(step)):
            at = start + 50 * (start >= 500)  # windows begin in what is counted, put together
            assert tokens[b].tolist() == text[at : at + 16].tolist()
            assert targets[b].tolist() == text[at + 1 : at + 17].tolist()
            assert torch.equal(base[b], expected[at : at + 16].half().float())
            seen.update(range(at, at + 16))
    assert len(seen) > 1000


def test_long_texts_are_read_in_stretches(monkeypatch):
    """All logits of all of it would not fit into memory; what is counted stays the same."""
    text, segments = text_of(64_000), [(0, 64_000)]
    whole = beside.windows_beside(text, segments, BYTE, 3, belief(recent=False), 2, **SHAPE)
    monkeypatch.setattr(beside, "_MOST_NUMBERS", 32_000 * K)
    some = beside.windows_beside(text, segments, BYTE, 3, belief(recent=False), 2, **SHAPE)
    kept = beside.covered(segments, K)
    assert sum(end - start for start, end in kept) == 32_000
    assert len(some._base) == 32_000
    ends = [0, *itertools.accumulate(end - start for start, end in kept)]
    for (start, end), at in zip(kept, ends[:-1], strict=True):
        # A stretch begins where nothing is known of what stands before, of a line's column last.
        assert torch.equal(some._base[at + 260 : at + end - start], whole._base[start + 260 : end])


def test_counting_stops_when_it_is_asked_to():
    asked = []

    def should_stop() -> bool:
        asked.append(True)
        return len(asked) == 2

    assert (
        beside.windows_beside(text_of(600), [(0, 600)], BYTE, 3, belief(recent=True), 4, should_stop, **SHAPE) is None
    )
    assert len(asked) == 2


@pytest.mark.parametrize("table_type", ["float32", "bfloat16"])
def test_a_step_beside_others_is_autograds(table_type: str):
    """Native and in plain PyTorch: the same loss, and the same rows to the last bits."""
    config = DelayConfig(
        vocabulary_size=K, n_neurons=8, n_tables=5, n_comparisons=4, readout_n_tables=4, readout_n_comparisons=4,
        table_type=table_type,
    )  # fmt: skip
    tokens = torch.from_numpy(text_of(64).astype(np.int64)).view(4, 16)
    generator = torch.Generator().manual_seed(0)
    base = 3 * torch.randn(4, 16, K, generator=generator)
    models = [DelayLM(config, seed=1) for _ in range(2)]
    for model in models:
        for layer in model.layers_in_order():
            generator.manual_seed(2)
            layer.synaptic_vectors.data.copy_(0.3 * torch.randn(layer.synaptic_vectors.shape, generator=generator))
        optim.attach(model, "sgd", 0.02)
    models[1]._chain = lambda trains: None
    losses = [model.train_step(tokens, tokens.roll(-1, 1), base) for model in models]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    alone = DelayLM(config, seed=1)
    optim.attach(alone, "sgd", 0.02)
    assert abs(alone.train_step(tokens, tokens.roll(-1, 1)) - losses[0]) > 1
    if table_type == "float32":
        for own, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def train(tmp_path, *more: str, out: str) -> dict:
    from polychron.cli import main

    options = ["--preset", "tiny", "--batch", "8", "--length", "32", "--contexts", "3", "--calibration", "4000"]
    assert main(["train", str(tmp_path / "text.txt"), *options, *more, "--out", str(tmp_path / out)]) == 0
    return json.loads((tmp_path / out / "config.json").read_text())


def write(tmp_path, n: int = 40_000) -> None:
    (tmp_path / "text.txt").write_bytes(np.frombuffer(b"abcdef", dtype=np.uint8)[text_of(n)].tobytes())


def begun(tmp_path, **settings):
    """The record of a small run that has not begun, and its text."""
    from polychron.cli.train import Settings, _new_run

    write(tmp_path)
    given = Settings(preset="tiny", batch=8, length=32, contexts=3, calibration=4000, **settings)
    return _new_run(tmp_path / "text.txt", given, "cpu")[:2]


def test_a_run_says_what_it_does(tmp_path, capsys):
    write(tmp_path)
    alone = train(tmp_path, "--steps", "20", "--beside", "0", out="alone")
    capsys.readouterr()
    both = train(tmp_path, "--steps", "20", "--beside", "0.5", out="both")
    said = capsys.readouterr().out
    assert "the last 50% beside these" in said
    assert "step 10: counting; from here on" in said
    assert (alone["beside"], alone["training"]["parts"]) == (None, 0)
    assert (both["training"]["beside"], both["training"]["parts"]) == (0.5, 2)
    assert both["beside"]["progress"] == 0.5
    assert [len(scales) for scales in both["beside"]["scales"]] == [8, 8, 8]
    assert len(both["beside"]["cells"]) == N_CELLS


def test_what_was_set_aside_is_counted_in_the_end(tmp_path):
    """Of a run that has time to count once more; the factors are those that were found without it."""
    from polychron.data import Vocabulary, hold_out
    from polychron.ops.contexts import bytes_of_symbols
    from polychron.training import open_checkpoint

    write(tmp_path)
    data = np.frombuffer((tmp_path / "text.txt").read_bytes(), dtype=np.uint8)
    for share, whole in (("0", False), ("0.5", True)):
        config = train(tmp_path, "--steps", "20", "--beside", share, out=share)
        checkpoint = open_checkpoint(tmp_path / share)
        vocabulary = Vocabulary(bytes(checkpoint.record.vocabulary))
        segments = hold_out(data.size, config["corpus"]["holdout"], config["corpus"]["holdout_fraction"]).training
        byte = bytes_of_symbols(bytes(vocabulary.byte_values))
        expected = ContextTables.of_text(vocabulary.encode(data), segments, byte, 3)
        expected.scale(config["metrics"]["context_scales"])
        found = checkpoint.load_model().contexts
        pairs = [*zip(found.lists, expected.lists, strict=True)]
        same = [a.value.shape == b.value.shape and torch.allclose(a.value, b.value) for a, b in pairs]
        assert all(same) == whole


def test_it_helps_on_code(tmp_path):
    """Of ten files of Python's library the last tenth, with the smallest network: 0.002 nats under either seed."""
    from polychron.cli import main

    library = Path(sysconfig.get_paths()["stdlib"])
    names = ["argparse", "ast", "datetime", "decimal", "tarfile", "typing", "inspect", "doctest", "pydoc", "zipfile"]
    text = b"".join(path.read_bytes() for name in names if (path := library / f"{name}.py").exists())
    (tmp_path / "text.txt").write_bytes(text)
    options = ["--preset", "tiny", "--contexts", "7", "--holdout", "tail", "--batch", "16", "--length", "64"]
    nats = []
    for share in ("0", "0.4"):
        out = tmp_path / share
        run = ["train", str(tmp_path / "text.txt"), *options, "--steps", "1500", "--beside", share, "--out", str(out)]
        assert main(run) == 0
        nats.append(json.loads((out / "config.json").read_text())["metrics"]["val_nats_per_byte"])
    assert nats[1] < nats[0]


def test_a_run_that_stops_anywhere_ends_with_the_same_bits(tmp_path):
    from polychron.training.checkpoint_writer import CheckpointWriter
    from polychron.training.run import BesideReport, Interrupted, Run
    from polychron.training.steps import StepReport

    record, corpus = begun(tmp_path, steps=60, beside=0.5)
    with CheckpointWriter(tmp_path / "whole") as writer:
        list(Run.begin(record, corpus.data, writer).events())
    weights = (tmp_path / "whole" / "weights-60.safetensors").read_bytes()

    def stop_after(events, at: int) -> int:
        """The step at which it stopped: before, in and after the counting."""
        for event in events:
            if isinstance(event, Interrupted):
                return event.step
            stops.extend([True] * ((isinstance(event, BesideReport) and at == 30) or _step(event) >= at != 30))
        raise AssertionError("it did not stop")

    def _step(event) -> int:
        return event.step if isinstance(event, StepReport) else 0

    for at in (10, 30, 45):
        stops: list[bool] = []
        directory = tmp_path / f"parts-{at}"
        with CheckpointWriter(directory) as writer:
            run = Run.begin(record, corpus.data, writer, checkpoint_seconds=1e-9)  # every step is reported
            stopped = stop_after(run.events(lambda: bool(stops)), at)  # noqa: B023
        assert stopped == at
        with CheckpointWriter(directory, resume=True) as writer:
            list(Run.resume(corpus.data, writer).events())
        assert (directory / "weights-60.safetensors").read_bytes() == weights


def test_a_run_that_stops_between_counting_and_the_first_step_ends_with_the_same_bits(tmp_path):
    from polychron.training.checkpoint_writer import CheckpointWriter
    from polychron.training.run import Run

    record, corpus = begun(tmp_path, steps=40, beside=0.5)
    with CheckpointWriter(tmp_path / "whole") as writer:
        list(Run.begin(record, corpus.data, writer).events())
    stops: list[bool] = []
    with CheckpointWriter(tmp_path / "parts") as writer:
        run = Run.begin(record, corpus.data, writer, checkpoint_seconds=1e-9)
        count = run.count_beside

        def count_and_stop(*arguments):
            windows = count(*arguments)
            stops.append(True)
            return windows

        run.count_beside = count_and_stop
        list(run.events(lambda: bool(stops)))
        assert (run.record.position.step, run.record.beside is None) == (20, False)
    with CheckpointWriter(tmp_path / "parts", resume=True) as writer:
        list(Run.resume(corpus.data, writer).events())
    names = [tmp_path / name / "weights-40.safetensors" for name in ("whole", "parts")]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_counting_that_takes_the_rest_of_the_time_leaves_a_whole_model(tmp_path):
    import time

    from polychron.training import open_checkpoint
    from polychron.training.checkpoint_writer import CheckpointWriter
    from polychron.training.run import Finished, Run

    record, corpus = begun(tmp_path, minutes=2 / 60, beside=0.5)
    with CheckpointWriter(tmp_path / "run") as writer:
        run = Run.begin(record, corpus.data, writer, checkpoint_seconds=1e-9)  # the last step alone is saved as well
        count = run.count_beside

        def count_slowly(*arguments):
            time.sleep(2.0)
            return count(*arguments)

        run.count_beside = count_slowly
        *_, last = run.events()
        assert isinstance(last, Finished)
        assert run.record.beside is None
    model = open_checkpoint(tmp_path / "run").load_model()
    assert model.contexts is not None


def test_a_stopped_run_says_that_its_model_lacks_what_was_counted(tmp_path, capsys):
    from polychron.cli import main
    from polychron.training.checkpoint_writer import CheckpointWriter
    from polychron.training.run import Run

    record, corpus = begun(tmp_path, steps=40)
    with CheckpointWriter(tmp_path / "run") as writer:
        list(Run.begin(record, corpus.data, writer).events(lambda: True))
    for command in (["evaluate", "run"], ["generate", "run", "--bytes", "3"], ["inspect", "run"], ["quantize", "run"]):
        capsys.readouterr()
        assert main([command[0], str(tmp_path / "run"), *command[2:]]) == 0
        assert "was stopped before its end, at which its model gets its counted contexts" in capsys.readouterr().err
    with CheckpointWriter(tmp_path / "run", resume=True) as writer:
        list(Run.resume(corpus.data, writer).events())
    capsys.readouterr()
    assert main(["generate", str(tmp_path / "run"), "--bytes", "3"]) == 0
    assert capsys.readouterr().err == ""


def test_counting_that_takes_all_the_time_is_told(tmp_path, capsys):
    write(tmp_path)
    train(tmp_path, "--minutes", "1e-6", "--beside", "0.5", out="spent")
    assert "they learn alone" in capsys.readouterr().out


def test_threads_do_not_change_a_bit(tmp_path):
    write(tmp_path)
    for threads in ("1", "2"):
        train(tmp_path, "--steps", "40", "--beside", "0.5", "--threads", threads, out=threads)
    names = [tmp_path / threads / "weights-40.safetensors" for threads in ("1", "2")]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_a_run_with_no_time_for_it_has_none(tmp_path):
    write(tmp_path)
    assert train(tmp_path, "--steps", "20", out="steps")["training"]["beside"] == 0
    spent = train(tmp_path, "--minutes", "1e-6", "--beside", "0.5", out="spent")
    assert (spent["training"]["beside"], spent["training"]["parts"], spent["beside"]) == (0, 0, None)
    assert spent["metrics"]["val_nats_per_byte"] < 1.7


def test_json_tells_of_it(tmp_path, capsys):
    write(tmp_path)
    capsys.readouterr()
    train(tmp_path, "--steps", "20", "--beside", "0.5", "--json", out="run")
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0]["beside"] == 0.5
    assert {"event": "beside", "step": 10, "done": True} in events


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--beside", "0.95"], "--beside must lie in [0, 0.9]; got 0.95"),
        (["--beside", "nan"], "--beside must lie in [0, 0.9]; got nan"),
        (["--beside", "0.3", "--contexts", "0"], "this run counts none"),
        (["--beside", "0.3", "--model", "recurrent"], "these with a delay model; the model is recurrent"),
        (["--beside", "0.3", "--schedule", "reference"], "--schedule linear"),
        (["--beside", "0.3", "--length", "50000"], "longest stretch has"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, capsys, options: list[str], message: str):
    from polychron.cli import main

    write(tmp_path)
    assert main(["train", str(tmp_path / "text.txt"), *options, "--out", str(tmp_path / "no")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_too_little_memory_is_told_before_the_training(tmp_path, capsys, monkeypatch):
    from polychron import limits
    from polychron.cli import main

    write(tmp_path)
    for available, calibration, advice in (
        (200_000, "4000", "give --contexts 0, or a smaller --calibration"),
        (420_000, "400", "give --beside 0"),
    ):
        monkeypatch.setattr(limits, "available_memory", lambda: available)  # noqa: B023
        options = ["--beside", "0.3", "--calibration", calibration, "--out", str(tmp_path / "no")]
        assert main(["train", str(tmp_path / "text.txt"), *options]) == 2
        assert advice in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda config: config["beside"]["scales"].pop(),
        lambda config: config["beside"]["scales"][0].pop(),
        lambda config: config["beside"]["cells"].pop(),
        lambda config: config["beside"].update(progress=1.0),
        lambda config: config["training"].update(parts=1),
        lambda config: config["training"].update(beside=0.0),
        lambda config: config["training"].update(contexts=0),
    ],
)
def test_a_damaged_record_is_told(tmp_path, capsys, damage):
    from polychron.cli import main

    write(tmp_path, 30_000)
    config = train(tmp_path, "--steps", "20", "--beside", "0.5", out="run")
    damage(config)
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    capsys.readouterr()
    assert main(["train", "--resume", "--out", str(tmp_path / "run")]) == 2
    assert "config.json" in capsys.readouterr().err
