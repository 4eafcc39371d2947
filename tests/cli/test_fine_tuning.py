from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from polychron.cli.train import Settings, _new_run
from polychron.training.checkpoint import open_checkpoint
from polychron.training.checkpoint_writer import CheckpointWriter
from polychron.training.run import Interrupted, Run

from .conftest import Command

SHORT = ("--steps", "20", "--batch", "4", "--length", "32", "--json")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text with bytes that the first one lacks."""
    path = tmp_path_factory.mktemp("other") / "code.txt"
    path.write_text("".join(f"x[{n % 89}] = {{{n * 7 % 513}}}; # {n}\n" for n in range(900)))
    return path


def nats(polychron: Command, folder: object, text: Path) -> float:
    return polychron("evaluate", folder, text, "--json").objects[0]["nats_per_byte"]


def test_a_trained_model_grows_learns_another_text_and_is_left_alone(
    polychron: Command, trained: Path, text: Path, other: Path
):
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    grown = ("--add-tables", 2, "--add-comparisons", 1)
    done = polychron("train", other, "--from", trained, *grown, "--out", "both", *SHORT)
    assert done.code == 0
    assert done.objects[0]["from"] == str(trained)
    assert {path.name: path.read_bytes() for path in trained.iterdir()} == before
    old, new = open_checkpoint(trained), open_checkpoint("both")
    for name in ("n_tables", "readout_n_tables"):
        assert getattr(new.config, name) == getattr(old.config, name) + 2
    assert new.config.n_comparisons == old.config.n_comparisons + 1
    assert set(old.record.vocabulary) < set(new.record.vocabulary)
    assert new.record.start.model_dump() == {
        "path": str(trained), "step": 300, "add_tables": 2, "add_comparisons": 1,
    }  # fmt: skip
    assert nats(polychron, "both", other) < nats(polychron, trained, other) - 0.5


def test_a_grown_model_is_a_model_like_any_other(polychron: Command, trained: Path, text: Path):
    polychron("train", text, "--from", trained, "--add-tables", 1, "--steps", 1, "--out", "both", "--json")
    for command in (["generate", "both", "In", "--bytes", 10], ["inspect", "both", "--bytes", 500], ["cost", "both"]):
        assert polychron(*command).code == 0


def test_variants_do_not_grow_and_comparisons_of_theirs_are_not_replaced(polychron: Command, text: Path):
    options = ("--preset", "tiny", "--hash", "bins", "--steps", 3, "--batch", 2, "--length", 32)
    assert polychron("train", text, *options, "--out", "bins").code == 0
    for more, message in (
        (
            ("--from", "bins", "--add-tables", 4),
            "the paper's layers grow, and not their variants: the model has hash bins",
        ),
        (("--from", "bins", "--rewire", 2), "--rewire replaces comparisons of the paper's layer"),
        ((*options, "--rewire", 2), "--rewire replaces comparisons of the paper's layer"),
    ):
        done = polychron("train", text, *more, *(("--steps", 3) if "--steps" not in more else ()), "--out", "no")
        assert done.code == 2
        assert message in done.err


def test_the_readout_of_a_model_that_reads_by_confidence_can_be_trained_alone(polychron: Command, text: Path):
    options = ("--preset", "tiny", "--reading", "confidence", "--batch", 2, "--length", 32)
    assert polychron("train", text, *options, "--steps", 3, "--out", "soft").code == 0
    assert polychron("train", text, "--from", "soft", "--only", "readout", *SHORT, "--out", "part").code == 0
    old, new = (open_checkpoint(folder).load_tensors() for folder in ("soft", "part"))
    changed = {name for name in old if name.startswith("model.") and not torch.equal(old[name], new[name])}
    assert changed
    assert all(name.startswith("model.readout.") for name in changed)


@pytest.mark.parametrize("option", [("--contexts", 0), ("--contexts", 3), ("--no-recent",), ("--beside", 0)])
def test_a_model_that_goes_on_keeps_its_contexts(polychron: Command, trained: Path, text: Path, option: tuple):
    done = polychron("train", text, "--from", trained, *option, *SHORT, "--out", "no")
    assert done.code == 2
    assert "a model that goes on keeps the contexts it has" in done.err


@pytest.mark.parametrize("only", ["added", "readout"])
def test_what_is_not_trained_keeps_its_bits(polychron: Command, trained: Path, text: Path, only: str):
    more = ("--add-tables", 2) if only == "added" else ()
    polychron("train", text, "--from", trained, *more, "--only", only, "--out", "part", *SHORT)
    old, new = open_checkpoint(trained).load_model(), open_checkpoint("part").load_model()
    layer, grown = old.layers[0].synaptic_vectors, new.layers[0].synaptic_vectors
    assert torch.equal(grown[: len(layer)], layer)
    assert grown[len(layer) :].any() == (only == "added")
    readout, trained_readout = old.readout.synaptic_vectors, new.readout.synaptic_vectors
    assert torch.equal(trained_readout[: len(readout)], readout) == (only == "added")


def test_a_stopped_run_goes_on_to_the_same_bits(polychron: Command, trained: Path, text: Path):
    polychron("train", text, "--from", trained, "--add-tables", 1, "--only", "added", "--out", "whole", *SHORT)
    settings = Settings(steps=20, batch=4, length=32, start=str(trained), add_tables=1, only="added")
    record, corpus, model = _new_run(text, settings, "cpu")
    asked = iter([False] * 7)  # asked before and after every step
    with CheckpointWriter("halves") as writer:
        *_, last = Run.begin(record, corpus.data, writer, model).events(lambda: next(asked, True))
    assert isinstance(last, Interrupted)
    assert 0 < last.step < 20
    refused = polychron("train", "--resume", "--out", "halves", "--only", "readout")
    assert (refused.code, "--only readout contradicts" in refused.err) == (2, True)
    assert polychron("train", "--resume", "--out", "halves", "--from", trained, "--json").code == 0
    whole, halves = open_checkpoint("whole").load_tensors(), open_checkpoint("halves").load_tensors()
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_bad_input_is_one_clear_line(polychron: Command, trained: Path, text: Path):
    polychron("quantize", trained, "--out", "small", "--json")
    for arguments, message in [
        (["--add-tables", 2], "--add-tables needs --from"),
        (["--only", "readout"], "--only needs --from"),
        (["--from", trained, "--only", "added"], "give that, too"),
        (["--from", trained, "--model", "delay"], "--model and --from exclude each other"),
        (["--from", trained, "--only", "readout", "--rewire", 5], "--rewire and --only exclude each other"),
        (["--from", "nowhere"], "nowhere does not exist"),
        (["--from", "small"], "quantised to int8"),
        (["--from", trained, "--only", "readout", "--update", "online"], "--only goes with --update batch"),
    ]:
        refused = polychron("train", text, *arguments, "--out", "never")
        assert refused.code == 2
        assert refused.err.startswith("error: ")
        assert message in refused.err
    assert not Path("never").exists()


def test_a_checkpoint_that_says_it_trains_what_was_never_added_is_refused(
    polychron: Command, trained: Path, text: Path
):
    polychron("train", text, "--from", trained, "--add-tables", 1, "--only", "added", "--out", "part", *SHORT)
    config = json.loads(Path("part/config.json").read_text())
    config["start"]["add_tables"] = 0
    Path("part/config.json").write_text(json.dumps(config))
    refused = polychron("evaluate", "part")
    assert (refused.code, "only added tables needs a start" in refused.err) == (2, True)
    config["start"]["add_tables"] = 1000
    Path("part/config.json").write_text(json.dumps(config))
    refused = polychron("train", "--resume", "--out", "part")
    assert (refused.code, "and one has fewer: config.json is damaged" in refused.err) == (2, True)
