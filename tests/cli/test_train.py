from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from polychron import limits
from polychron.cli.console import resume_command
from polychron.errors import InputError
from polychron.training import open_checkpoint

from .conftest import SMALL_RUN, Command


def weights(folder: Path) -> bytes:
    (path,) = folder.glob("weights-*.safetensors")
    return path.read_bytes()


def test_the_last_line_of_json_is_the_result(polychron: Command, text: Path):
    done = polychron("train", text, *SMALL_RUN, "--steps", 50, "--seed", 7, "--out", "run", "--json")
    assert done.code == 0
    assert done.err == ""
    assert [event["event"] for event in done.objects] == [
        "start", "checkpoint", "training", "checkpoint", "checkpoint", "sample", "result",
    ]  # fmt: skip
    result = done.objects[-1]
    assert result["model"] == "delay"
    assert result["preset"] == "tiny"
    assert result["seed"] == 7
    assert result["parameters"] == open_checkpoint("run").config.n_parameters()
    assert result["train_bytes"] == 50 * 4 * 32
    assert result["train_bytes_per_second"] == pytest.approx(result["train_bytes"] / result["train_seconds"])
    assert result["val_bits_per_byte"] == pytest.approx(result["val_nats_per_byte"] / 0.693147, rel=1e-5)
    assert 0.1 < result["val_nats_per_byte"] < 2
    assert result["val_bytes"] == done.objects[0]["held_out_bytes"] - 1
    assert result["checkpoint"] == "run"


def test_a_person_sees_settings_sample_and_summary_without_colour(polychron: Command, text: Path):
    done = polychron("train", text, *SMALL_RUN, "--steps", 50, "--out", "run")
    assert done.code == 0
    assert "\x1b" not in done.out
    for words in (
        "flock.txt",
        "delay tiny",
        "held out",
        "validation loss",
        "bits/byte",
        "polychron generate run",
    ):
        assert words in done.out, words


def test_a_run_without_out_takes_the_next_free_folder(polychron: Command, text: Path):
    for number in (1, 2):
        done = polychron("train", text, *SMALL_RUN, "--steps", 2, "--json")
        assert done.objects[-1]["checkpoint"] == f"runs/flock-delay-tiny-{number}"
        assert Path(f"runs/flock-delay-tiny-{number}/config.json").exists()


def test_without_a_text_the_standard_library_is_read(polychron: Command):
    done = polychron("train", *SMALL_RUN, "--steps", 1, "--out", "run", "--json", "--holdout-fraction", "0.001")
    assert done.objects[0]["source"].startswith("Python's standard library")
    assert open_checkpoint("run").record.corpus.path is None


def test_the_same_seed_gives_the_same_bits_for_any_number_of_threads(polychron: Command, text: Path):
    for folder, seed, threads in [("a", 1, 1), ("b", 1, 2), ("c", 2, 1)]:
        polychron("train", text, *SMALL_RUN, "--steps", 40, "--seed", seed, "--threads", threads, "--out", folder)
    assert weights(Path("a")) == weights(Path("b")) != weights(Path("c"))


def test_minutes_end_a_run_by_the_clock(polychron: Command, text: Path):
    done = polychron("train", text, *SMALL_RUN, "--minutes", 0.01, "--out", "run", "--json")
    assert 0.6 <= done.objects[-1]["train_seconds"] < 5


def test_the_transformer_trains_in_batches_and_online(polychron: Command, text: Path):
    for update, batch in [("batch", 8), ("online", 1)]:
        done = polychron(
            "train", text, "--model", "transformer", "--length", 16, "--batch", batch, "--update", update,
            "--steps", 30, "--out", update, "--json",
        )  # fmt: skip
        assert done.code == 0, done.err
        assert done.objects[-1]["preset"] == "paper-small"
        assert done.objects[-1]["val_nats_per_byte"] < 4
        assert open_checkpoint(update).record.training.update == update


def test_tensorboard_writes_scalars(polychron: Command, text: Path):
    done = polychron("train", text, *SMALL_RUN, "--steps", 5, "--out", "run", "--json", "--tensorboard")
    assert done.code == 0, done.err
    (log,) = Path("run/tensorboard").iterdir()
    assert b"validation/whole_nats_per_byte" in log.read_bytes()
    assert b"training/bytes_per_second" in log.read_bytes()


def signal_after_first_steps(folder: Path, number: int) -> None:
    """Send this process a signal once the run in ``folder`` has saved a step."""
    while True:
        with contextlib.suppress(InputError):
            if open_checkpoint(folder).record.position.step > 0:
                return os.kill(os.getpid(), number)
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_run_can_be_resumed_to_the_same_bits(
    polychron: Command, text: Path, number: int, code: int
):
    arguments = ("train", text, *SMALL_RUN, "--steps", 600, "--json")
    usual = signal.getsignal(number)
    sender = threading.Thread(target=signal_after_first_steps, args=(Path("parts").absolute(), number))
    sender.start()
    stopped = polychron(*arguments, "--out", "parts", "--checkpoint-seconds", 0.01)
    sender.join()
    assert stopped.code == code, stopped
    assert signal.getsignal(number) == usual
    step = open_checkpoint("parts").record.position.step
    assert 0 < step < 600
    assert stopped.err == f"stopped at step {step:,}, saved in parts. To go on: {resume_command(Path('parts'))}\n"
    assert stopped.objects[-1] == {"event": "checkpoint", "step": step, "checkpoint": "parts"}

    resumed = polychron("train", "--resume", "--out", "parts", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.objects[0]["step"] == step
    assert polychron(*arguments, "--out", "whole").code == 0
    assert weights(Path("parts")) == weights(Path("whole"))


def test_a_run_below_the_folder_that_it_reads_resumes(polychron: Command, text: Path):
    shutil.copy(text, "flock.txt")
    assert polychron("train", ".", *SMALL_RUN, "--steps", 5, "--out", "runs/a").code == 0
    assert polychron("train", "--resume", "--out", "runs/a", "--json").code == 0


def test_a_path_that_is_no_unicode_is_recorded_as_well_as_it_goes(polychron: Command, text: Path, trained: Path):
    copy, start = (os.fsdecode(name) for name in (b"fl\xf6ck.txt", b"t\xfcr"))
    shutil.copy(text, copy)
    shutil.copytree(trained, start)
    done = polychron("train", copy, "--from", start, "--steps", 5, "--out", "run")
    assert done.code == 0, done.err
    assert open_checkpoint("run").record.start.path.endswith(r"t\udcfcr")
    assert polychron("train", copy, "--from", start, "--resume", "--out", "run").code == 0


def test_a_run_refused_late_leaves_no_folder(polychron: Command, text: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    refused = polychron("train", text, *SMALL_RUN, "--steps", 5, "--tensorboard")
    assert (refused.code, "pip install 'polychron[tensorboard]'" in refused.err) == (2, True)
    assert list(Path().iterdir()) == []


def test_resuming_keeps_the_settings_and_refuses_others(polychron: Command, text: Path, trained: Path):
    folder = Path(shutil.copytree(trained, "run"))
    assert polychron("train", text, *SMALL_RUN, "--steps", 300, "--out", "run", "--resume").code == 0
    for option, value, was in [
        ("--steps", 301, "is 300"),
        ("--minutes", 1, "was not given"),
        ("--seed", 5, "is 0"),
        ("--preset", "small", "is tiny"),
        ("--model", "transformer", "is delay"),
        ("--rate", 0.5, "is 0.02"),
        ("--holdout", "tail", "is blocks"),
        ("--optimizer", "adagrad", "is sgd"),
    ]:
        refused = polychron("train", option, value, "--out", folder, "--resume")
        assert refused.code == 2
        assert f"{option} {value}" in refused.err.replace("1.0", "1")
        assert was in refused.err


def test_a_run_goes_on_with_the_minutes_it_was_begun_with(polychron: Command, text: Path):
    arguments = ("train", text, *SMALL_RUN, "--minutes", 0.0075, "--out", "run")  # 60 * 0.0075 / 60 is less
    assert polychron(*arguments).code == 0
    assert polychron(*arguments, "--resume").code == 0


def test_resuming_refuses_another_text(polychron: Command, text: Path, tmp_path: Path):
    copy = Path(shutil.copy(text, tmp_path / "copy.txt"))
    polychron("train", copy, *SMALL_RUN, "--steps", 5, "--out", "run")
    moved = copy.rename(tmp_path / "moved.txt")
    refused = polychron("train", "--out", "run", "--resume")
    assert refused.code == 2
    assert "no such file or folder" in refused.err
    assert "Give its TEXT" in refused.err
    assert polychron("train", moved, "--out", "run", "--resume").code == 0
    moved.write_text(moved.read_text() + "more")
    refused = polychron("train", moved, "--out", "run", "--resume")
    assert refused.code == 2
    assert "is not the text that the model was trained on" in refused.err


def test_bad_input_is_one_clear_line_and_leaves_nothing_behind(polychron: Command, text: Path, tmp_path: Path):
    (tmp_path / "empty").write_text("")
    (tmp_path / "short").write_text("too short")
    (tmp_path / "zeros").write_bytes(b"\0" * 5000)
    for arguments, message in [
        (["nowhere.txt"], "no such file or folder: nowhere.txt"),
        ([tmp_path / "empty"], "is empty"),
        ([tmp_path / "short"], "is too short: at least 1,024 bytes are needed; got 9"),
        ([tmp_path / "zeros"], "one byte value only (0)"),
        (["/dev/null"], "neither a file nor a folder"),
        ([text, "--preset", "gigantic"], "must be one of micro, tiny, small, medium, base; got 'gigantic'"),
        ([text, "--model", "oracle"], "--model"),
        ([text, "--length", 10**6], "takes 1000001 bytes in a row"),
        ([text, "--length", 0], "--length"),
        ([text, "--batch", -1], "--batch"),
        ([text, "--steps", 0], "--steps"),
        ([text, "--steps", 2**63], "--steps"),
        ([text, "--calibration", 2**63], "--calibration"),
        ([text, "--steps", 5, "--minutes", 5], "--minutes and --steps exclude each other"),
        ([text, "--minutes", "nan"], "--minutes must be positive and at most"),
        ([text, "--minutes", -1], "--minutes must be positive and at most"),
        ([text, "--minutes", "1e306"], "--minutes must be positive and at most 1,000,000,000; got 1e+306"),
        ([text, "--contexts", 3, "--calibration", 7], "--calibration 7 sets nothing of this text aside"),
        ([text, "--contexts", 3, "--calibration", 25_000], "--calibration 25000 sets nothing of this text aside"),
        ([""], "an argument is empty"),
        ([text, "--out", ""], "an argument is empty"),
        ([text, "--out="], "an argument is empty"),
        ([text, "--rate", 0], "--rate must be positive and finite"),
        ([text, "--seed", -1], "--seed"),
        ([text, "--threads", 0], "--threads"),
        ([text, "--checkpoint-seconds", "nan"], "--checkpoint-seconds"),
        ([text, "--holdout-fraction", 0.9], "at most 0.5; got 0.9"),
        ([text, "--update", "online"], "--update online is the transformer's"),
        ([text, "--model", "transformer", "--update", "online", "--optimizer", "adagrad"], "leave --optimizer"),
        ([text, "--nonsense"], "--nonsense"),
        ([text, "--resume"], "--resume needs --out DIR"),
        ([text, "--out", "nowhere", "--resume"], "nowhere does not exist"),
        ([text, "--out", text], "cannot write checkpoints to"),
    ]:
        refused = polychron("train", *arguments)
        assert refused.code == 2, arguments
        assert refused.out == ""
        assert refused.err.startswith("error: ")
        assert refused.err.count("\n") == 1
        assert message in refused.err, refused.err
        assert list(Path().iterdir()) == [], arguments


def test_a_finished_run_is_not_overwritten(polychron: Command, text: Path, trained: Path):
    before = (trained / "config.json").read_bytes()
    refused = polychron("train", text, "--out", trained)
    assert refused.code == 2
    assert "already has a checkpoint: add --resume" in refused.err
    assert (trained / "config.json").read_bytes() == before


def test_a_preset_larger_than_memory_is_refused_before_it_is_built(polychron: Command, text: Path, monkeypatch):
    monkeypatch.setattr(limits, "available_memory", lambda: 2_000_000)
    refused = polychron("train", text, "--model", "transformer", "--preset", "paper")
    assert refused.code == 2
    assert "parameters of transformer paper need 3.2 GB of memory and 2.0 MB are available" in refused.err
    assert "take a smaller --preset" in refused.err
    assert list(Path().iterdir()) == []


def test_an_old_run_that_was_killed_before_its_validation_is_completed(polychron: Command, trained: Path):
    folder = Path(shutil.copytree(trained, "run"))
    fields = json.loads((folder / "config.json").read_text())
    expected = fields["metrics"]["val_nats_per_byte"]
    fields["metrics"]["val_nats_per_byte"] = None
    (folder / "config.json").write_text(json.dumps(fields))
    done = polychron("train", "--resume", "--out", folder, "--json")
    assert done.objects[-1]["val_nats_per_byte"] == expected


def test_tables_are_left_out_where_the_text_is_read_many_times(polychron: Command, text: Path):
    """29,520 bytes, 128 a step: 2,200 steps read the training part 10.6 times; 32 times would leave out 15 %."""

    def drop(*options: object) -> float:
        folder = Path(f"run-{len(list(Path().iterdir()))}")
        done = polychron("train", text, *SMALL_RUN, *options, "--out", folder, "--json")
        assert done.code == 0, done.err
        assert done.objects[0]["drop"] == open_checkpoint(folder).record.training.drop
        return done.objects[0]["drop"]

    assert drop("--steps", 100) == 0
    assert drop("--steps", 2200) == 0.05
    assert drop("--steps", 100, "--drop", 0.3) == 0.3
    assert drop("--steps", 100, "--model", "transformer", "--preset", "paper-small", "--drop", 0.5) == 0.5


@pytest.mark.parametrize("drop", ["1", "-0.1", "nan"])
def test_a_drop_that_leaves_nothing_is_refused(polychron: Command, text: Path, drop: str):
    done = polychron("train", text, "--drop", drop)
    assert done.code == 2
    assert "--drop must be at least 0 and below 1" in done.err


def test_a_text_that_is_read_often_trains_several_members(polychron: Command, text: Path):
    def members(*options: object) -> tuple[int, int]:
        folder = Path(f"run-{len(list(Path().iterdir()))}")
        done = polychron("train", text, *SMALL_RUN, *options, "--out", folder, "--json")
        assert done.code == 0, done.err
        record = open_checkpoint(folder).record
        assert done.objects[0]["members"] == record.training.members
        return record.training.members, record.model["readout_n_tables"]

    assert members("--steps", 20, "--preset", "small") == (1, 16)
    assert members("--steps", 80, "--batch", 64, "--length", 128, "--preset", "small") == (2, 32)  # 24 times
    assert members("--steps", 20, "--members", 3) == (3, 24)
    assert members("--steps", 20, "--members", 3, "--model", "recurrent", "--preset", "small") == (3, 48)


def test_members_need_a_readout_that_can_be_divided(polychron: Command, text: Path):
    paper = ("--model", "transformer", "--preset", "paper-small")
    assert polychron("train", text, *paper, "--steps", 1, "--batch", 1, "--out", "paper", "--json").code == 0
    for model in (paper, ("--from", "paper")):
        done = polychron("train", text, "--members", 2, *model)
        assert done.code == 2
        assert "members of an ensemble go with a delay or recurrent model; the model is transformer" in done.err


def test_a_model_goes_on_as_members_of_its_own_tables(polychron: Command, text: Path, trained: Path):
    done = polychron("train", text, "--from", trained, "--members", 2, "--steps", 3, "--out", "two", "--json")
    assert done.code == 0, done.err
    assert open_checkpoint(Path("two")).record.model["readout_n_tables"] == 8
    done = polychron("train", text, "--from", trained, "--members", 3, "--steps", 3)
    assert done.code == 2
    assert "--members 3 must divide the 8 tables of the model's readout evenly" in done.err


def test_rewiring_is_one_option_and_is_recorded(polychron: Command, text: Path):
    done = polychron("train", text, *SMALL_RUN, "--steps", 4, "--rewire", 2, "--out", "run", "--json")
    assert done.objects[0]["rewire"] == 2
    assert open_checkpoint("run").record.training.rewire == 2
    refused = polychron("train", "--resume", "--out", "run", "--rewire", 3)
    assert (refused.code, "--rewire 3 contradicts" in refused.err) == (2, True)
