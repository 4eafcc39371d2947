"""``--hash``, ``--reading``, ``--gradient``: from training to whatever reads the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polychron.training import open_checkpoint

from .conftest import SMALL_RUN, Command

SHORT = (*SMALL_RUN, "--steps", "20", "--json")


@pytest.mark.parametrize(
    "options",
    [("--hash", "bins"), ("--reading", "confidence"), ("--gradient", "all"), ("--hash", "hyperplane", "--bins", "2")],
    ids="-".join,
)
def test_a_variant_is_trained_scored_and_written_with(polychron: Command, text: Path, options):
    done = polychron("train", text, *SHORT, *options, "--out", "run")
    if "--bins" in options:
        assert done.code == 2
        assert "goes with hash bins" in done.err
        return
    assert done.code == 0, done.err
    assert done.objects[0][options[0].strip("-")] == options[1]
    expected = done.objects[-1]["val_nats_per_byte"]
    (score,) = polychron("evaluate", "run", "--json").objects
    assert score["nats_per_byte"] == pytest.approx(expected, abs=1e-5)
    (written,) = polychron("generate", "run", "In field ", "--bytes", 20, "--json").objects
    assert written["bytes"] == 20


def test_a_resumed_variant_ends_with_the_same_bits(polychron: Command, text: Path):
    arguments = (text, *SMALL_RUN, "--steps", 20, "--hash", "hyperplane", "--threads", 1)
    polychron("train", *arguments, "--out", "whole")
    polychron("train", *arguments, "--out", "parts")
    (weights,) = Path("parts").glob("weights-*")
    before = weights.read_bytes()
    assert polychron("train", "--out", "parts", "--resume").code == 0
    assert before == next(Path("whole").glob("weights-*")).read_bytes()
    refused = polychron("train", "--out", "parts", "--resume", "--hash", "zero")
    assert refused.code == 2
    assert "--hash zero contradicts the run in parts, where it is hyperplane" in refused.err


def test_what_reads_by_order_refuses_other_addresses_in_one_line(polychron: Command, text: Path):
    polychron("train", text, *SHORT, "--hash", "zero", "--out", "run")
    for arguments in (("quantize", "run"), ("export", "run", "--out", "model")):
        refused = polychron(*arguments)
        assert refused.code == 2
        assert refused.err.count("\n") == 1
        assert "this model has hash zero" in refused.err
    assert sorted(path.name for path in Path().iterdir()) == ["run"]
    (cost,) = polychron("cost", "run", "--json").objects
    assert cost["multiplications"] == 0
    assert cost["latency_bytes"] == 4 * cost["comparisons"]


def test_a_gradient_alone_leaves_a_model_that_the_runtime_runs(polychron: Command, text: Path):
    polychron("train", text, *SHORT, "--gradient", "scalar", "--out", "run")
    assert polychron("quantize", "run", "--json").code == 0


def test_a_checkpoint_from_before_variants_opens_and_a_hostile_one_does_not(polychron: Command, trained: Path):
    fields = json.loads((trained / "config.json").read_text())
    assert "hash" not in fields["model"]
    assert open_checkpoint(trained).config.is_native
    folder = Path("run")
    folder.mkdir()
    for path in trained.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    for change, message in [
        ({"hash": "bins", "n_bins": 65536}, "at most 2^30"),
        ({"hash": "hyperplane"}, "describes a model of"),
        ({"hash": "sha"}, "hash must be one of"),
        ({"reading": "confidence"}, "damaged"),
    ]:
        (folder / "config.json").write_text(json.dumps({**fields, "model": {**fields["model"], **change}}))
        refused = polychron("evaluate", folder, trained.parent / "nowhere")
        assert refused.code == 2
        refused = polychron("cost", folder) if message != "damaged" else polychron("evaluate", folder)
        assert message in refused.err, refused.err


def test_online_updates_are_the_papers_layer_alone(polychron: Command, text: Path):
    refused = polychron("train", text, "--model", "transformer", "--update", "online", "--hash", "zero")
    assert refused.code == 2
    assert "--update online is the paper's layer alone" in refused.err


def test_parity_with_the_reference_program(polychron: Command, text: Path):
    """One window a step, rows updated where they stand, its anchors, its schedule; resumed to the same bits."""
    parity = ["--model", "transformer", "--preset", "paper-small", "--update", "online", "--schedule", "reference",
              "--anchors", "independent", "--batch", 1, "--steps", 4]  # fmt: skip
    done = polychron("train", text, *parity, "--out", "run", "--json")
    assert done.code == 0, done.err
    checkpoint = open_checkpoint("run")
    assert checkpoint.config.anchors == "independent"
    assert checkpoint.record.training.schedule.rate(8, 0.5) == 8 * 4000**-1.5
    assert 3 * 4000**-1.5 in [line.get("rate") for line in done.objects]
    assert polychron("train", text, "--resume", "--out", "run", "--schedule", "linear").code == 2
    refused = polychron("train", text, *parity, "--rate", 0.1)
    assert refused.code == 2
    assert "--schedule reference sets the rate" in refused.err


def test_delays_and_anchors_are_one_option_each(polychron: Command, text: Path):
    polychron("train", text, *SHORT, "--max-delay", 0, "--anchors", "covering", "--out", "run")
    config = open_checkpoint("run").config
    assert (config.max_delay, config.anchors, config.is_native) == (0, "covering", True)


def test_a_classifier_of_a_variant(polychron: Command, tmp_path: Path):
    lines = [f"{n % 7 * 30},{n * 37 % 256},{n * 91 % 256},{int(n % 7 > 3)}" for n in range(200)]
    (tmp_path / "points.csv").write_text("\n".join(lines))
    data = tmp_path / "points.csv"
    done = polychron("train-classifier", data, "--preset", "tiny", "--steps", 20, "--reading", "soft", "--out", "run",
                     "--batch", 16, "--json")  # fmt: skip
    assert done.code == 2  # three inputs form three pairs and tables want eight
    lines = [",".join(str((n * k * 37 + k) % 256) for k in range(1, 9)) + f",{n % 2}" for n in range(200)]
    data.write_text("\n".join(lines))
    done = polychron("train-classifier", data, "--preset", "tiny", "--steps", 20, "--reading", "soft", "--out", "run",
                     "--batch", 16, "--json")  # fmt: skip
    assert done.code == 0, done.err
    (again,) = polychron("classify", "run", "--json").objects
    assert again["test_accuracy"] == done.objects[-1]["test_accuracy"]
    refused = polychron("train-classifier", "--resume", "--out", "run", "--reading", "hard")
    assert "--reading hard contradicts" in refused.err
