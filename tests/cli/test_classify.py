from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from polychron.cli import main
from polychron.cli.classify import _View
from polychron.data.examples import load_labelled
from polychron.errors import InputError
from polychron.training import CheckpointWriter, checkpoint
from polychron.training.classify import (
    ClassifierFinished,
    ClassifierMetrics,
    ClassifierRecord,
    ClassifierRun,
    open_classifier,
)
from polychron.training.records import PositionRecord
from polychron.training.run import CheckpointReport
from polychron.training.steps import StepReport

from ..data.test_examples import write_idx_folder
from ..data.test_sensors import write_hapt
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


def test_what_was_counted_was_not_moved_about(counted: Outcome):
    assert counted.code == 0
    assert json.loads(Path("run/config.json").read_text())["training"]["augment"] == "none"


def test_what_was_counted_is_a_classifier_like_any_other(polychron: Command, counted: Outcome):
    (again,) = polychron("classify", "run", "--json").objects
    assert again["test_correct"] == counted.objects[-1]["test_correct"]


def test_a_run_that_counted_is_finished(polychron: Command, counted: Outcome):
    again = polychron("train-classifier", "--resume", "--out", "run")
    assert "every example once" in again.out
    assert f"{counted.objects[-1]['test_correct']} of 120" in again.out


def write_columns(path: Path, n: int) -> None:
    inputs = np.random.default_rng(0).integers(0, 256, (60, n)).tolist()
    path.write_text("".join(",".join(map(str, [*one, int(one[0] > 99)])) + "\n" for one in inputs))


def test_columns_are_moved_about_only_where_somebody_calls_them_an_image(polychron: Command):
    write_columns(Path("set.csv"), 9)
    for options, augment, width in (([], "none", 0), (["--augment", "shift"], "shift", 3)):
        folder = f"run-{augment}"
        done = polychron("train-classifier", "set.csv", *TINY, "--steps", 3, *options, "--out", folder, "--json")
        assert done.code == 0, done.err
        record = open_classifier(folder).record
        assert (record.training.augment, record.model["width"]) == (augment, width)
        assert polychron("train-classifier", "--resume", "--out", folder).code == 0
        assert polychron("classify", folder).code == 0


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (7, ["--augment", "shift"], "7 numbers before the label are no square"),
        (
            4,
            [],
            "4 numbers an example form 6 pairs, and a table compares 8: give examples of more numbers, or --anchors",
        ),
    ],
)
def test_columns_that_do_not_suit_are_refused_and_leave_no_folder(polychron: Command, n, options, message):
    write_columns(Path("set.csv"), n)
    refused = polychron("train-classifier", "set.csv", *TINY, *options, "--steps", 3)
    assert (refused.code, message in refused.err, refused.err.count("\n")) == (2, True, 1)
    assert not Path("runs").exists()


def test_few_columns_are_compared_with_set_times(polychron: Command):
    write_columns(Path("set.csv"), 4)
    assert polychron("train-classifier", "set.csv", *TINY, "--anchors", "random", "--steps", 3).code == 0


def test_sensors_are_no_images(polychron: Command, tmp_path: Path):
    refused = polychron("train-classifier", write_hapt(tmp_path / "hapt"), "--augment", "shift")
    assert (refused.code, "--augment shift moves images about" in refused.err) == (2, True)
    assert not Path("runs").exists()


def test_a_moved_file_is_not_taken_for_a_set_of_its_name(polychron: Command):
    write_columns(Path("digits.csv"), 9)
    assert polychron("train-classifier", "digits.csv", *TINY, "--steps", 3, "--out", "run").code == 0
    Path("digits.csv").rename("numbers.csv")
    refused = polychron("classify", "run")
    assert (refused.code, "no such data: " in refused.err) == (2, True)
    assert polychron("classify", "run", "numbers.csv").code == 0


def test_a_set_of_a_package_is_recorded_by_its_name(polychron: Command):
    assert polychron("train-classifier", "digits", *TINY, "--steps", 1, "--out", "run").code == 0
    assert open_classifier("run").record.data.data == "digits"


def test_a_path_that_is_no_unicode_is_recorded_as_well_as_it_goes(polychron: Command):
    path = os.fsdecode(b"s\xe4tze.csv")
    write_columns(Path(path), 9)
    done = polychron("train-classifier", path, *TINY, "--steps", 3, "--out", "run")
    assert done.code == 0, done.err
    assert polychron("train-classifier", path, "--resume", "--out", "run").code == 0


def begin_again(classifier: Path, folder: Path, **training: Any) -> ClassifierRun:
    """A run like the one that made a classifier, which saves after every report."""
    record = open_classifier(classifier).record
    fresh = {"position": PositionRecord(), "metrics": ClassifierMetrics(), "weights": None}
    record = record.model_copy(update={**fresh, "training": record.training.model_copy(update=training)})
    writer = CheckpointWriter(folder, kind=ClassifierRecord)
    return ClassifierRun.begin(record, load_labelled(record.data.data), writer, checkpoint_seconds=0)


def test_closing_the_events_saves(classifier: Path, tmp_path: Path):
    run = begin_again(classifier, tmp_path / "run", steps=10**6)
    with contextlib.closing(run.writer), contextlib.closing(run.events()) as events:
        for event in events:
            if isinstance(event, StepReport):
                break
    assert open_classifier(tmp_path / "run").record.position.step == event.step > 0


def test_a_checkpoint_that_fails_on_the_way_is_said_and_training_goes_on(classifier: Path, tmp_path: Path, monkeypatch):
    run = begin_again(classifier, tmp_path / "run", steps=None, seconds=1.2)
    save, n_saves = run.writer.save, 0

    def fail_once(*arguments: object) -> Path:
        nonlocal n_saves
        n_saves += 1
        if n_saves == 2:
            raise InputError("disk full")
        return save(*arguments)

    monkeypatch.setattr(run.writer, "save", fail_once)
    with contextlib.closing(run.writer):
        events = list(run.events())
    assert [event.problem for event in events if isinstance(event, CheckpointReport)][:3] == [None, "disk full", None]
    assert isinstance(events[-1], ClassifierFinished)


def test_a_failed_checkpoint_is_a_warning(capsys: pytest.CaptureFixture[str]):
    failed = CheckpointReport(7, Path("run"), problem="disk full")
    _View(json=False).show(failed)
    assert capsys.readouterr().err == "warning: disk full; training goes on\n"
    _View(json=True).show(failed)
    assert json.loads(capsys.readouterr().out) == {"event": "warning", "step": 7, "problem": "disk full"}


def test_counting_has_no_rate(polychron: Command):
    Path("set.csv").write_text("1,2,0\n3,4,1\n" * 9)
    refused = polychron("train-classifier", "set.csv", "--counts", "--rate", 0.1)
    assert (refused.code, "--counts reads every example once and has no --rate" in refused.err) == (2, True)
