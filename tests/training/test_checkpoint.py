from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from polychron import limits
from polychron.errors import InputError
from polychron.training import CheckpointWriter, Run, checkpoint, open_checkpoint
from polychron.training.checkpoint import checkpoint_tensors
from polychron.training.records import PositionRecord

from .conftest import TEXT, RunMaker, make_record


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has ended."""
    folder = tmp_path_factory.mktemp("original") / "run"
    with CheckpointWriter(folder) as writer:
        list(Run.begin(make_record(), TEXT, writer).events())
    return folder


@pytest.fixture
def saved(original: Path, tmp_path: Path) -> Path:
    """A copy of it that may be damaged."""
    return shutil.copytree(original, tmp_path / "run")


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_is_saved_is_loaded(make_run: RunMaker, tmp_path: Path):
    run = make_run(optimizer="adagrad")
    list(run.events())
    loaded = open_checkpoint(tmp_path / "run")
    assert loaded.record == run.record.model_copy(update={"weights": loaded.record.weights})
    assert loaded.vocabulary == run.vocabulary
    expected = run.model.state_dict()
    model = loaded.load_model()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_a_checkpoint_is_two_files_that_others_can_read(saved: Path):
    assert names_in(saved) == {"config.json", "weights-30.safetensors"}
    tensors = safetensors.torch.load_file(saved / "weights-30.safetensors")
    assert all(name.startswith(("model.", "optimizer.")) for name in tensors)
    mask = os.umask(0)
    os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in saved.iterdir()} == {0o666 & ~mask}
    assert json.loads((saved / "config.json").read_text())["format"] == "polychron"


def test_saving_again_supersedes_and_leaves_other_files_alone(make_run: RunMaker, tmp_path: Path):
    run = make_run()
    tensors = checkpoint_tensors(run.model, run.optimizer)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    (tmp_path / "run" / ".writing").mkdir()
    (tmp_path / "run" / ".writing" / "weights-7.safetensors").write_text("of a killed process")
    for step in (1, 2):
        run.writer.save(run.record.model_copy(update={"position": PositionRecord(step=step)}), tensors)
        assert names_in(tmp_path / "run") == {"config.json", f"weights-{step}.safetensors", "notes.txt"}


def test_weights_that_were_there_before_the_run_are_somebody_elses(make_run: RunMaker, tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "weights-7.safetensors").write_text("precious")
    list(make_run().events())
    assert (tmp_path / "run" / "weights-7.safetensors").read_text() == "precious"


def test_what_a_killed_run_left_is_cleared_away(saved: Path):
    (saved / "weights-31.safetensors").write_text("newer than config.json")
    (saved / "weights-29.safetensors").write_text("superseded")
    (saved / ".writing").mkdir()
    CheckpointWriter(saved, resume=True).close()
    assert names_in(saved) == {"config.json", "weights-30.safetensors"}


def test_resuming_takes_a_checkpoint(tmp_path: Path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        CheckpointWriter(tmp_path / "nowhere", resume=True)
    assert not (tmp_path / "nowhere").exists()


def test_a_step_that_is_saved_again_writes_no_weights(make_run: RunMaker, tmp_path: Path):
    run = make_run()
    run.writer.save(run.record, checkpoint_tensors(run.model, run.optimizer))
    before = (tmp_path / "run" / "weights-0.safetensors").stat().st_mtime_ns
    run.writer.save(run.record, {})
    assert (tmp_path / "run" / "weights-0.safetensors").stat().st_mtime_ns == before
    open_checkpoint(tmp_path / "run").load_model()


def test_a_step_whose_weights_have_changed_is_written_anew(make_run: RunMaker, tmp_path: Path):
    """As when counted tables join at the end; under another name, until config.json names it."""
    run = make_run()
    run.writer.save(run.record, checkpoint_tensors(run.model, run.optimizer))
    changed = run.record.model_copy(update={"metrics": run.record.metrics.model_copy(update={"readout_scale": 2.0})})
    with torch.no_grad():
        run.model.readout.synaptic_vectors.fill_(3.0)
    for _ in range(2):
        run.writer.save(changed, checkpoint_tensors(run.model, run.optimizer))
        assert names_in(tmp_path / "run") == {"config.json", "weights-00.safetensors"}
        assert (open_checkpoint(tmp_path / "run").load_model().readout.synaptic_vectors == 3.0).all()


def test_somebodys_weights_are_neither_overwritten_nor_deleted_when_a_run_goes_on(make_run: RunMaker, tmp_path: Path):
    (tmp_path / "run").mkdir()
    for name in ("weights-0.safetensors", "weights-7.safetensors"):
        (tmp_path / "run" / name).write_text("precious")
    run = make_run()
    run.writer.save(run.record, checkpoint_tensors(run.model, run.optimizer))
    run.writer.close()
    CheckpointWriter(tmp_path / "run", resume=True).close()
    assert names_in(tmp_path / "run") == {
        "config.json", "weights-0.safetensors", "weights-00.safetensors", "weights-7.safetensors",
    }  # fmt: skip
    assert (tmp_path / "run" / "weights-0.safetensors").read_text() == "precious"


def test_a_folder_with_a_checkpoint_is_not_overwritten(saved: Path):
    with pytest.raises(InputError, match="already has a checkpoint: add --resume"):
        CheckpointWriter(saved)


def test_one_run_at_a_time_writes_to_a_folder(tmp_path: Path):
    with CheckpointWriter(tmp_path / "run"), pytest.raises(InputError, match="is in use: another run"):
        CheckpointWriter(tmp_path / "run")
    CheckpointWriter(tmp_path / "run").close()


def test_a_folder_made_for_a_run_that_saved_nothing_is_gone(tmp_path: Path):
    CheckpointWriter(tmp_path / "runs" / "a").close()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    CheckpointWriter(tmp_path / "mine").close()
    assert (tmp_path / "mine").is_dir()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write checkpoints to .*file"):
        CheckpointWriter(tmp_path / "file")
    with pytest.raises(InputError, match="cannot write checkpoints to"):
        CheckpointWriter(tmp_path / "file" / "below")


@contextmanager
def files_limited_to(n_bytes: int) -> Iterator[None]:
    """As a full disk: writing beyond ``n_bytes`` of a file fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("n_bytes", [0, 100, 5_000])
def test_a_full_disk_leaves_the_old_checkpoint_and_no_rubbish(make_run: RunMaker, tmp_path: Path, n_bytes: int):
    run = make_run()
    tensors = checkpoint_tensors(run.model, run.optimizer)
    run.writer.save(run.record, tensors)
    later = run.record.model_copy(update={"position": PositionRecord(step=9)})
    with (
        files_limited_to(n_bytes),
        pytest.raises(InputError, match=r"cannot write .*; the one of step 0 stands"),
    ):
        run.writer.save(later, tensors)
    assert names_in(tmp_path / "run") == {"config.json", "weights-0.safetensors"}
    assert open_checkpoint(tmp_path / "run").record.position.step == 0
    run.writer.save(later, tensors)
    assert open_checkpoint(tmp_path / "run").record.position.step == 9


def test_a_disk_that_is_full_when_the_config_comes_leaves_the_old_checkpoint(
    make_run: RunMaker, tmp_path: Path, monkeypatch
):
    run = make_run()
    tensors = checkpoint_tensors(run.model, run.optimizer)
    run.writer.save(run.record, tensors)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run.writer, "_write_config", fail)
    with pytest.raises(InputError, match="No space left on device; the one of step 0 stands"):
        run.writer.save(run.record.model_copy(update={"position": PositionRecord(step=9)}), tensors)
    assert names_in(tmp_path / "run") == {"config.json", "weights-0.safetensors"}
    open_checkpoint(tmp_path / "run").load_model()


KILLED = """
import os, random, signal, sys, time
from pathlib import Path

import torch
from polychron.training.checkpoint import open_checkpoint
from polychron.training.checkpoint_writer import CheckpointWriter
from polychron.training.records import PositionRecord, Record

folder, record = Path(sys.argv[1]), Record.model_validate_json(sys.stdin.read())
random.seed(0)
steps = []
longest = 0.05
while len(set(steps)) < 10:  # on a busy machine a writer needs longer to get anywhere: it is given longer each time
    longest *= 1.05
    first = 1 + (steps[-1] if steps else 0)
    child = os.fork()
    if child == 0:
        writer = CheckpointWriter(folder, resume=(folder / "config.json").exists())
        for step in range(first, 10**6):
            tensors = {"model.step": torch.full((20_000,), step), "optimizer.step": torch.full((10,), step)}
            writer.save(record.model_copy(update={"position": PositionRecord(step=step)}), tensors)
    time.sleep(random.uniform(0.002, longest))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if not (folder / "config.json").exists():
        assert not steps  # killed before the first was complete
        continue
    found = open_checkpoint(folder)
    step = found.record.position.step
    for name in ("model.step", "optimizer.step"):
        assert set(found._weights.view(name)) == {step}, (name, step)
    assert len(list(folder.iterdir())) <= 4, list(folder.iterdir())
    steps.append(step)
print(len(set(steps)), steps == sorted(steps))
"""


def test_a_process_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path, monkeypatch):
    (tmp_path / "run").mkdir()
    # The weights are not a model's: the check that they can be is another test's.
    script = KILLED.replace(
        "steps = []",
        "from polychron.training import checkpoint as module\nmodule._require_plausible = lambda *_: None\nsteps = []",
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, tmp_path / "run"],
        input=make_record().model_dump_json(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    n_steps, ascending = done.stdout.split()
    assert int(n_steps) == 10
    assert ascending == "True"


def test_weights_superseded_while_they_are_opened_are_read_anew(make_run: RunMaker, tmp_path: Path, monkeypatch):
    run = make_run()
    tensors = checkpoint_tensors(run.model, run.optimizer)
    run.writer.save(run.record, tensors)
    read = checkpoint.read_config
    n_reads = 0

    def read_then_supersede(folder: Path, task: str) -> Any:
        nonlocal n_reads
        n_reads += 1
        record = read(folder, task)
        if n_reads == 1:
            run.writer.save(run.record.model_copy(update={"position": PositionRecord(step=5)}), tensors)
        return record

    monkeypatch.setattr(checkpoint, "read_config", read_then_supersede)
    assert open_checkpoint(tmp_path / "run").record.position.step == 5
    assert n_reads == 2


def test_open_weights_outlive_their_file(make_run: RunMaker, tmp_path: Path):
    run = make_run()
    tensors = checkpoint_tensors(run.model, run.optimizer)
    run.writer.save(run.record, tensors)
    opened = open_checkpoint(tmp_path / "run")
    run.writer.save(run.record.model_copy(update={"position": PositionRecord(step=5)}), tensors)
    opened.load_model()


def edited(path: tuple[str, ...], value: object) -> Callable[[Path], None]:
    """Puts a value at a place in config.json."""

    def edit(folder: Path) -> None:
        fields = json.loads((folder / "config.json").read_text())
        place = fields
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        (folder / "config.json").write_text(json.dumps(fields))

    return edit


def rewritten(content: bytes) -> Callable[[Path], None]:
    """Another config.json altogether."""
    return lambda folder: (folder / "config.json").write_bytes(content)


def weights_changed(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Other bytes in the weights file, whose size config.json then gives rightly."""

    def edit(folder: Path) -> None:
        content = change((folder / "weights-30.safetensors").read_bytes())
        (folder / "weights-30.safetensors").write_bytes(content)
        edited(("weights", "bytes"), len(content))(folder)

    return edit


def tensors_changed(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """A well-formed weights file with other tensors."""

    def edit(folder: Path) -> None:
        tensors = safetensors.torch.load_file(folder / "weights-30.safetensors")
        change(tensors)
        safetensors.torch.save_file(tensors, folder / "weights-30.safetensors")
        edited(("weights", "bytes"), (folder / "weights-30.safetensors").stat().st_size)(folder)

    return edit


def first_float(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name, tensor in sorted(tensors.items()) if tensor.is_floating_point())


HOSTILE = {
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        "has no checkpoint: there is no config.json",
    ),
    "config is a folder": (
        lambda folder: ((folder / "config.json").unlink(), (folder / "config.json").mkdir()),
        "has no checkpoint",
    ),
    "no weights": (
        lambda folder: (folder / "weights-30.safetensors").unlink(),
        "incomplete: .* is not there",
    ),
    "empty config": (rewritten(b""), "it is not JSON"),
    "config is no text": (rewritten(b"\xff\xfe\0"), "it is not JSON"),
    "deep nesting": (rewritten(b'{"a":' * 100_000), "it is not JSON"),
    "huge number": (rewritten(b'{"format": "polychron", "version": ' + b"9" * 5000 + b"}"), "it is not JSON"),
    "huge config": (rewritten(b" " * 2**21), r"more than 1\.0 MB"),
    "a list": (rewritten(b"[]"), 'does not say "format": "polychron"'),
    "another program's": (rewritten(b'{"architectures": ["LlamaForCausalLM"]}'), 'does not say "format"'),
    "newer": (edited(("version",), 2), "format version 2 and this polychron reads up to 1: upgrade"),
    "version is no number": (edited(("version",), "1"), "damaged: version"),
    "unknown field": (edited(("surprise",), 1), "damaged: surprise"),
    "missing field": (rewritten(b'{"format": "polychron", "version": 1}'), "damaged: .*required"),
    "path in weights' name": (
        edited(("weights", "file"), "../weights-30.safetensors"),
        "damaged: weights.file",
    ),
    "newline in weights' name": (
        edited(("weights", "file"), "weights-30.safetensors\n"),
        "damaged: weights.file",
    ),
    "no weights record": (edited(("weights",), None), "damaged: weights"),
    "negative step": (edited(("position", "step"), -1), "damaged: position.step"),
    "NaN seconds": (edited(("position", "seconds"), float("nan")), "damaged: position.seconds"),
    "two budgets": (edited(("training", "seconds"), 5.0), "damaged: training: .*exactly one"),
    "rate of text": (edited(("training", "rate"), "0.1"), "damaged: training.rate"),
    "cap of nothing": (edited(("training", "visit_cap"), 0), "damaged: training.visit_cap"),
    "batch beyond all bounds": (edited(("training", "batch"), 2**40), "damaged: training.batch"),
    "vocabulary with 300": (edited(("vocabulary",), [300]), "damaged: vocabulary.0"),
    "vocabulary unsorted": (edited(("vocabulary",), [5, 3]), "vocabulary's byte values must ascend"),
    "vocabulary too small": (edited(("vocabulary",), [5]), "vocabulary has 2 ids"),
    "unknown model": (edited(("model", "kind"), "oracle"), "oracle"),
    "model of text": (edited(("model",), "delay"), "damaged: model"),
    "vocabulary size": (edited(("model", "vocabulary_size"), 17), "vocabulary_size is 17"),
    "more layers than tensors": (
        edited(("model", "n_layers"), 60_000),
        r"describes a model of|has more than \d+ tensors",
    ),
    "truncated": (
        lambda folder: os.truncate(folder / "weights-30.safetensors", 1000),
        r"truncated: it has 1,000 bytes and should have",
    ),
    "cut and config says so": (weights_changed(lambda content: content[:-4]), "damaged"),
    "empty weights": (weights_changed(lambda _: b""), "damaged"),
    "no safetensors": (weights_changed(lambda content: b"\x80\x04" * (len(content) // 2)), "damaged"),
    "huge header": (
        weights_changed(lambda content: (2**40).to_bytes(8, "little") + content[8:]),
        r"header of 1,099,511,627,776 bytes is impossible",
    ),
    "tensor missing": (
        tensors_changed(lambda tensors: tensors.update(other=tensors.pop(first_float(tensors)))),
        r"model\.\S+ must be F32 .* and is absent",
    ),
    "tensor too many": (
        tensors_changed(lambda tensors: tensors.update({"model.more": torch.zeros(3)})),
        r"model\.more must be absent and is F32 of shape \(3,\)",
    ),
    "other dtype": (
        tensors_changed(lambda tensors: tensors.update({first_float(tensors): tensors[first_float(tensors)].double()})),
        "must be F32 .* and is F64",
    ),
    "other shape": (
        tensors_changed(lambda tensors: tensors.update({first_float(tensors): tensors[first_float(tensors)][None]})),
        "must be F32 .* and is F32",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_damaged_or_hostile_is_refused_with_one_line(saved: Path, case: str):
    damage, message = HOSTILE[case]
    damage(saved)
    with pytest.raises(InputError, match=message) as refusal:
        open_checkpoint(saved).load_model()
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 600


def test_no_folder_and_no_folder_at_all(tmp_path: Path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        open_checkpoint(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a folder: a checkpoint is a folder"):
        open_checkpoint(tmp_path / "file")


def test_another_optimizers_state_is_refused(make_run: RunMaker, tmp_path: Path):
    adagrad_run = make_run("other", optimizer="adagrad")
    list(adagrad_run.events())
    adagrad_run.writer.close()
    sgd = make_run("third").optimizer
    with pytest.raises(InputError, match="is damaged: optimizer: state must name the layers"):
        open_checkpoint(tmp_path / "other").load_optimizer(sgd)


def test_a_model_larger_than_memory_is_refused_before_it_is_built(saved: Path, monkeypatch):
    monkeypatch.setattr(limits, "available_memory", lambda: 1000)
    with pytest.raises(InputError, match=r"the weights in .* need .* of memory and 1\.0 kB are available"):
        open_checkpoint(saved).load_model()


@pytest.mark.parametrize("change", [{"optimizer": "adagrad"}, {"update": "online"}])
def test_a_cap_on_visits_goes_with_plain_sgd_only(saved: Path, change: dict[str, str]):
    path = saved / "config.json"
    fields = json.loads(path.read_text())
    fields["training"] |= {"visit_cap": 64, **change}
    path.write_text(json.dumps(fields))
    with pytest.raises(InputError, match=r"damaged: training: .*visit_cap goes with optimizer sgd"):
        open_checkpoint(saved)
