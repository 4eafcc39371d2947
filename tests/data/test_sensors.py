from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from polychron.data.examples import load_labelled
from polychron.data.sensors import WINDOW, cut_windows, describe_windows, load_hapt
from polychron.errors import InputError


def write_hapt(folder: Path, n_persons: int = 6) -> Path:
    """Six persons, each sitting (still) and walking (shaking) for 512 samples."""
    random = np.random.default_rng(0)
    folder.mkdir()
    stretches = []
    for person in range(1, n_persons + 1):
        for sensor in ("acc", "gyro"):
            still, shaking = random.normal(0, 0.01, (512, 3)), random.normal(0, 1, (512, 3))
            np.savetxt(folder / f"{sensor}_exp{person:02}_user{person:02}.txt", np.concatenate([still, shaking]))
        stretches += [(person, person, 4, 1, 512), (person, person, 8, 400, 600), (person, person, 1, 513, 1024)]
    np.savetxt(folder / "labels.txt", stretches, "%d")
    return folder


def test_windows_overlap_by_half_and_short_stretches_have_none():
    signal = np.arange(300 * 6).reshape(300, 6)
    windows = cut_windows(signal)
    assert windows.shape == (3, 128, 6)
    assert np.array_equal(windows[2], signal[128:256])
    assert cut_windows(signal[:100]).shape == (0, 128, 6)


def test_a_stretch_that_is_too_short_has_no_description():
    assert describe_windows(cut_windows(np.zeros((WINDOW - 1, 6)))).shape == (0, 256)


def test_a_description_is_quantiles_of_channels_magnitudes_and_changes():
    windows = np.random.default_rng(0).normal(size=(2, 128, 6))
    described = describe_windows(windows).reshape(2, 16, 16)
    assert described[1, 0, 0] == windows[1, 1:, 0].min()
    assert described[1, 5, 15] == windows[1, 1:, 5].max()
    assert described[0, 7, 15] == pytest.approx(np.linalg.norm(windows[0, 1:, 3:], axis=1).max())
    assert described[0, 8, 15] == pytest.approx(np.abs(np.diff(windows[0, :, 0])).max())


def test_persons_of_the_test_are_not_learnt_from(tmp_path):
    labelled = load_labelled(str(write_hapt(tmp_path / "hapt")))
    assert labelled.n_inputs == 256
    assert (len(labelled.train_labels), len(labelled.test_labels)) == (4 * 14, 2 * 14)
    assert sorted(set(labelled.train_labels.tolist())) == [0, 3]
    changes = labelled.test_inputs.reshape(-1, 16, 16)[:, 8:, 8].mean(axis=1)
    assert changes[labelled.test_labels == 0].min() > changes[labelled.test_labels == 3].max()


def test_damaged_files_are_refused(tmp_path):
    folder = write_hapt(tmp_path / "hapt")
    (folder / "gyro_exp02_user02.txt").write_text("1 2 3\n")
    with pytest.raises(InputError, match="as many lines"):
        load_labelled(str(folder))
    (folder / "gyro_exp02_user02.txt").write_text("one two three\n")
    with pytest.raises(InputError, match="lines of 3 numbers"):
        load_labelled(str(folder))
    (folder / "gyro_exp02_user02.txt").unlink()
    os.mkfifo(folder / "gyro_exp02_user02.txt")  # nobody will ever write to it
    with pytest.raises(InputError, match=r"cannot read .*gyro_exp02_user02\.txt: it is a pipe or a device"):
        load_labelled(str(folder))
    (folder / "labels.txt").write_text("1 1 4 1 5000\n")
    with pytest.raises(InputError, match="names samples 1 to 5000"):
        load_labelled(str(folder))
    with pytest.raises(InputError, match="of 3 persons at least"):
        load_labelled(str(write_hapt(tmp_path / "two", n_persons=2)))


def test_a_folder_that_the_system_does_not_look_into_is_refused():
    with pytest.raises(InputError, match="File name too long"):
        load_hapt(Path("x" * 300))
