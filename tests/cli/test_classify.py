from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from polychron.cli import main
from polychron.training import CheckpointWriter, checkpoint
from polychron.training.classify import ClassifierRecord, open_classifier
from polychron.training.records import PositionRecord

from ..data.test_examples import write_idx_folder
from .conftest import Command, Outcome

TINY = ("--preset", "tiny", "--batch", "10")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "rows"
    write_idx_folder(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier") / "run"
    assert main(["train-classifier", str(images), *TINY, "--steps", "60", "--out", str(folder), "--json"]) == 0
    return folder


def test_a_program_reads_accuracy_confusion_and_classes(polychron: Command, images: Path):
    done = polychron("train-classifier", images, *TINY, "--steps", 60, "--augment", "none", "--json")
    assert done.code == 0
    start, *_, result = done.objects
    assert start["event"] == "start"
    assert start["train_examples"] == 40
    assert result["event"] == "result"
    assert result["test_examples"] == 12 == sum(map(sum, result["confusion"]))
    assert result["test_correct"] == sum(row[k] for k, row in enumerate(result["confusion"]))
    assert result["test_accuracy"] == result["test_correct"] / 12 > 0.9
    assert [c["examples"] for c in result["classes"]] == [4, 4, 4]
    assert Path(result["checkpoint"]) == Path("runs/rows-deep-tiny-1")


def test_a_person_sees_a_confusion_matrix_and_each_class(polychron: Command, images: Path):
    out = polychron("train-classifier", images, *TINY, "--minutes", 0.005).out
    for words in ("40 to learn from, 12 to test", "confusion", "precision", "accuracy ", "polychron classify"):
        assert words in out
    assert "\x1b" not in out


def test_a_checkpoint_scores_what_the_training_said(polychron: Command, classifier: Path, images: Path):
    (score,) = polychron("classify", classifier, "--json").objects
    (same,) = polychron("classify", classifier, images, "--json").objects
    assert score == same
    assert score["test_accuracy"] > 0.9
    assert "accuracy " in polychron("classify", classifier).out


def test_weights_superseded_while_they_are_opened_are_read_anew(classifier: Path, tmp_path: Path, monkeypatch):
    folder = Path(shutil.copytree(classifier, tmp_path / "run"))
    record = open_classifier(folder).record
    later = record.model_copy(update={"position": PositionRecord(step=61)})
    read, n_reads = checkpoint.read_config, 0

    def read_then_supersede(folder: Path, task: str) -> Any:
        nonlocal n_reads
        n_reads += 1
        result = read(folder, task)
        if n_reads == 1:
            with monkeypatch.context() as patched, CheckpointWriter(folder, resume=True, kind=ClassifierRecord) as run:
                patched.setattr(checkpoint, "read_config", read)
                run.save(later, safetensors.torch.load_file(classifier / record.weights.file))
        return result

    monkeypatch.setattr(checkpoint, "read_config", read_then_supersede)
    assert open_classifier(folder).record.position.step == 61
    assert {path.name for path in folder.iterdir()} == {"config.json", "weights-61.safetensors"}


class SignalAfter(list):
    """Signals noted: none while it is asked so often, then an interrupt."""

    def __init__(self, n_times: int) -> None:
        self.n_times = n_times

    def __bool__(self) -> bool:
        self.n_times -= 1
        if self.n_times == 0:
            self.append(2)
        return len(self) > 0


def test_an_interrupted_run_resumes_to_the_same_bits(polychron: Command, images: Path, monkeypatch):
    from polychron.cli import classify

    assert polychron("train-classifier", images, *TINY, "--steps", 30, "--out", "whole", "--json").code == 0
    with monkeypatch.context() as patched:
        patched.setattr(classify, "signals_noted", lambda: contextlib.nullcontext(SignalAfter(12)))
        stopped = polychron("train-classifier", images, *TINY, "--steps", 30, "--out", "parts")
    assert stopped.code == 130
    assert "saved in parts. To go on: polychron train-classifier --resume --out parts" in stopped.err
    assert open_classifier("parts").record.position.step < 30
    assert polychron("train-classifier", images, "--resume", "--out", "parts", "--json").code == 0
    one, other = (safetensors.torch.load_file(f"{name}/weights-30.safetensors") for name in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("model", "n_pixels", 10**9), ("model", "n_pixels", 21), ("model", "n_classes", 4), ("model", "x", 1),
        ("model", "n_layers", 60_000), ("model", "readout_n_tables", "many"), ("model", "radius", -1.0),
        ("model", "kind", "delay"),
        ("training", "rate", 0), ("training", "steps", None), ("training", "augment", "rotate"),
        ("data", "class_names", ["a"]), ("data", "sha256", "0"), ("position", "step", -1), ("weights", "bytes", 1),
        ("weights", "file", "../weights-1.safetensors"),
    ],
)  # fmt: skip
def test_a_damaged_config_is_refused(polychron: Command, classifier: Path, tmp_path: Path, section, field, value):
    folder = Path(shutil.copytree(classifier, tmp_path / "damaged"))
    config = json.loads((folder / "config.json").read_text())
    config[section][field] = value
    (folder / "config.json").write_text(json.dumps(config))
    for command in (["classify", folder], ["train-classifier", "--resume", "--out", folder]):
        refused = polychron(*command)
        assert refused.code == 2
        assert refused.err.startswith("error: ")
        assert refused.err.count("\n") == 1


def test_bad_input_is_one_clear_line(polychron: Command, classifier: Path, images: Path, trained: Path, tmp_path: Path):
    damaged = Path(shutil.copytree(classifier, tmp_path / "damaged"))
    for path in damaged.glob("weights-*"):
        path.write_bytes(path.read_bytes()[:-1])
    for arguments, message in [
        (["train-classifier", "nowhere"], "no such data: nowhere"),
        (["train-classifier", "n" * 300], "File name too long"),
        (["train-classifier", images, "--steps", 2**63], "--steps"),
        (["train-classifier", images, "--preset", "huge"], "must be one of tiny, small, base"),
        (["train-classifier", images, "--minutes", "1", "--steps", "1"], "exclude each other"),
        (["train-classifier", images, "--rate", "nan"], "--rate must be positive"),
        (["train-classifier", "--resume"], "--resume needs --out"),
        (["train-classifier", "--resume", "--out", classifier, "--seed", "7"], "--seed 7 contradicts"),
        (["train-classifier", images, "--out", classifier], "already has a checkpoint"),
        (["train-classifier", "digits", "--resume", "--out", classifier], "not what the classifier was trained on"),
        (["classify", classifier, "digits"], "wants 20 inputs"),
        (["classify", damaged], "is truncated"),
        (["classify", trained], "holds a language model, and a classifier is asked for"),
        (["generate", classifier, "x"], "holds a classifier, and a language model is asked for"),
    ]:
        refused = polychron(*arguments)
        assert refused.code == 2, arguments
        assert refused.out == ""
        assert refused.err.startswith("error: ")
        assert refused.err.count("\n") == 1
        assert message in refused.err


@pytest.fixture
def counted(polychron: Command) -> Outcome:
    """A classifier that was counted in ``run``, on ``set.csv``."""
    inputs = np.random.default_rng(0).integers(0, 256, (600, 9))
    lines = [",".join(map(str, [*one, int(one[0] > one[1])])) for one in inputs.tolist()]
    Path("set.csv").write_text("\n".join(lines) + "\n")
    return polychron("train-classifier", "set.csv", "--counts", "--out", "run", "--json")


def test_counting_reads_every_example_once(counted: Outcome):
    result = counted.objects[-1]
    assert result["train_examples"] == 480
    assert result["test_accuracy"] > 0.85


def test_what_was_counted_is_a_classifier_like_any_other(polychron: Command, counted: Outcome):
    (again,) = polychron("classify", "run", "--json").objects
    assert again["test_correct"] == counted.objects[-1]["test_correct"]


def test_a_run_that_counted_is_finished(polychron: Command, counted: Outcome):
    again = polychron("train-classifier", "--resume", "--out", "run")
    assert "every example once" in again.out
    assert f"{counted.objects[-1]['test_correct']} of 120" in again.out


def test_counting_has_no_rate(polychron: Command):
    Path("set.csv").write_text("1,2,0\n3,4,1\n" * 9)
    refused = polychron("train-classifier", "set.csv", "--counts", "--rate", 0.1)
    assert (refused.code, "--counts reads every example once and has no --rate" in refused.err) == (2, True)
