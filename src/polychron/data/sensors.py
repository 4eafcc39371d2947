"""Human activity from a phone's accelerometer and gyroscope: the raw files of UCI HAPT, divided by person.

A window is described by the order statistics of its channels and of their changes, so that what a network compares does
not depend on where in the window a step falls.
"""

# W window, S sample, C channel, Q quantile

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import numpy as np

from polychron.data.labelled import LabelledSet
from polychron.data.lines import read_lines
from polychron.errors import InputError
from polychron.limits import require_memory
from polychron.storage.regular_file import open_regular

ACTIVITIES = ("walking", "upstairs", "downstairs", "sitting", "standing", "lying")
WINDOW, STEP = 128, 64  # samples, at 50 a second
QUANTILES = np.linspace(0, 1, 16)
_TEST_PERSONS = 3  # every third person is kept for the test
_SIGNAL = re.compile(r"acc_exp([0-9]{2,4})_user([0-9]{2,4})\.txt")


def is_hapt(folder: Path) -> bool:
    """Whether a folder, or the ``RawData`` in it, has HAPT's labels.

    Raises:
        InputError: the system does not say.
    """
    return _has_labels(folder) or _has_labels(folder / "RawData")


def load_hapt(folder: Path) -> LabelledSet:
    """Windows of the six activities; every third person is kept for the test.

    ``labels.txt`` has a line a stretch: experiment, person, activity (7 and more, the transitions, are left out), first
    and last sample, counted from 1. The signals have a line a sample: x, y, z.

    Raises:
        InputError: a file that is missing or not like that, or too few persons.
    """
    raw = folder if _has_labels(folder) else folder / "RawData"
    stretches = _numbers(raw / "labels.txt", 5).astype(np.int64)
    features, labels, persons = [], [], []
    for path in sorted(raw.iterdir()):
        match = _SIGNAL.fullmatch(path.name)
        if match is None:
            continue
        experiment, person = map(int, match.groups())
        acceleration = _numbers(path, 3)
        turning = _numbers(path.with_name("gyro" + path.name.removeprefix("acc")), 3)
        if len(acceleration) != len(turning):
            raise InputError(
                f"{path} and its gyro file must have as many lines; got {len(acceleration)} and {len(turning)}"
            )
        signal = np.concatenate([acceleration, turning], axis=1)
        for activity, first, last in stretches[(stretches[:, 0] == experiment) & (stretches[:, 1] == person), 2:]:
            if not 1 <= activity <= len(ACTIVITIES):
                continue
            if not 1 <= first <= last <= len(signal):
                raise InputError(
                    f"{raw / 'labels.txt'} names samples {first} to {last} of {path.name}, which has {len(signal)}"
                )
            windows = cut_windows(signal[first - 1 : last])
            features.append(describe_windows(windows))
            labels.append(np.full(len(windows), activity - 1))
            persons.append(np.full(len(windows), person))
    if not features or len(np.unique(np.concatenate(persons))) < _TEST_PERSONS:
        raise InputError(f"{raw} must have files acc_exp*_user*.txt of {_TEST_PERSONS} persons at least")
    inputs, label, person = map(np.concatenate, (features, labels, persons))
    everybody = np.unique(person)
    for_test = np.isin(person, everybody[_TEST_PERSONS - 1 :: _TEST_PERSONS])
    scaled = scale_by(inputs[~for_test], inputs)
    return LabelledSet(
        "hapt",
        f"{raw}, {len(everybody)} persons, {len(everybody[_TEST_PERSONS - 1 :: _TEST_PERSONS])} of them for the test",
        str(folder.resolve()),
        scaled[~for_test],
        label[~for_test],
        scaled[for_test],
        label[for_test],
        ACTIVITIES,
    )


def cut_windows(signal: np.ndarray) -> np.ndarray:
    """A signal (S, C) in windows of 2.56 s that overlap by half: (W, 128, C)."""
    if len(signal) < WINDOW:
        return np.empty((0, WINDOW, signal.shape[1]))
    return np.lib.stride_tricks.sliding_window_view(signal, WINDOW, axis=0)[::STEP].transpose(0, 2, 1)


def describe_windows(windows: np.ndarray) -> np.ndarray:
    """Windows (W, 128, 6) as (W, 256): 16 quantiles of six axes and two magnitudes, and of the changes of each."""
    magnitudes = [np.linalg.norm(windows[..., axes], axis=-1, keepdims=True) for axes in (slice(0, 3), slice(3, 6))]
    channels = np.concatenate([windows, *magnitudes], axis=-1)
    both = np.concatenate([channels[:, 1:], np.abs(np.diff(channels, axis=1))], axis=-1)
    return (
        np.quantile(both, QUANTILES, axis=1).transpose(1, 2, 0).reshape(len(windows), both.shape[-1] * len(QUANTILES))
    )


def scale_by(reference: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Each input's rank among the reference's values of that input, 0 to 255: uint8.

    Example:
        >>> scale_by(np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([[-5.0], [1.5], [9.0]])).ravel().tolist()
        [0, 128, 255]
    """
    ordered = np.sort(reference, axis=0)
    rank = np.stack([np.searchsorted(ordered[:, k], inputs[:, k]) for k in range(inputs.shape[1])], axis=1)
    return np.round(rank * (255 / len(reference))).astype(np.uint8)


def _has_labels(folder: Path) -> bool:
    try:
        return (folder / "labels.txt").is_file()
    except OSError as error:  # a name too long, or a folder that may not be entered
        raise InputError(f"cannot read {folder}: {error.strerror or error}") from None


def _numbers(path: Path, n_columns: int) -> np.ndarray:
    try:
        with open_regular(path) as file, io.TextIOWrapper(file, encoding="utf-8") as text:
            n_bytes = os.fstat(file.fileno()).st_size
            require_memory(4 * n_bytes, f"the numbers of {path}", "close other programs")
            table = read_lines(text)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {path} as lines of {n_columns} numbers: {error}") from None
    if table.shape[1] != n_columns or not np.isfinite(table).all():
        raise InputError(f"{path} must have {n_columns} finite numbers a line; got {table.shape[1]} columns")
    return table
