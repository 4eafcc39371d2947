from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from polychron import limits
from polychron.data import examples
from polychron.data.batches import Batches
from polychron.data.examples import divide, load_labelled
from polychron.data.idx import read_idx
from polychron.data.labelled import LabelledSet
from polychron.errors import InputError


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx_folder(folder: Path, *, compress: bool = False) -> np.random.Generator:
    """Forty images 5x4 to learn from, twelve to test; class k is bright in row k."""
    random = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for part, n in (("train", 40), ("t10k", 12)):
        labels = np.arange(n, dtype=np.uint8) % 3
        images = random.integers(0, 60, (n, 5, 4), dtype=np.uint8)
        images[np.arange(n), labels] += 150
        for content, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{part}-{content}-ubyte"
            if compress:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(idx_bytes(array)))
            else:
                path.write_bytes(idx_bytes(array))
    return random


@pytest.mark.parametrize("compress", [False, True])
def test_a_folder_of_idx_files_is_read(tmp_path, compress):
    write_idx_folder(tmp_path / "small", compress=compress)
    labelled = load_labelled(str(tmp_path / "small"))
    assert labelled.train_inputs.shape == (40, 20)
    assert labelled.test_inputs.shape == (12, 20)
    assert (labelled.height, labelled.width) == (5, 4)
    assert labelled.class_names == ("0", "1", "2")
    assert labelled.train_labels[:4].tolist() == [0, 1, 2, 0]
    assert labelled.train_inputs.reshape(-1, 5, 4)[1, 1].min() >= 150


def test_fashion_mnist_has_its_classes_by_name_and_by_path(tmp_path, monkeypatch):
    write_idx_folder(tmp_path / "small")
    monkeypatch.setattr(examples, "DEBIAN_FASHION_MNIST", tmp_path / "small")
    for labelled in (load_labelled(), load_labelled("fashion-mnist"), load_labelled(str(tmp_path / "small"))):
        assert labelled.name == "fashion-mnist"
        assert labelled.class_names[:2] == ("T-shirt", "trouser")
        assert labelled.mirrors
    monkeypatch.setattr(examples, "DEBIAN_FASHION_MNIST", tmp_path / "absent")
    with pytest.raises(InputError, match="install Debian's package"):
        load_labelled()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no idx file"),
        (b"PK\3\4" + bytes(20), "is no idx file"),
        (bytes([0, 0, 13, 3]) + bytes(12), "type 8"),
        (bytes([0, 0, 8, 1]) + bytes(12), "in 3 dimensions; got type 8 in 1"),
        (idx_bytes(np.zeros((2, 3, 3), np.uint8))[:-1], "has fewer"),
        (idx_bytes(np.zeros((2, 3, 3), np.uint8)) + b"x", "has more"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 2**31, 2**31, 2**10), "of memory"),
    ],
)
def test_what_is_no_idx_file_is_refused_before_memory_is_taken(tmp_path, content, message):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_idx(path, 3)


def test_idx_files_without_an_image_are_refused(tmp_path):
    write_idx_folder(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((0, 5, 4), np.uint8)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(0, np.uint8)))
    with pytest.raises(InputError, match="at least one; got 0 examples"):
        load_labelled(str(tmp_path))


def test_a_damaged_gzip_is_refused(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.zeros((9, 9), np.uint8)))[:-9])
    with pytest.raises(InputError, match="cannot read"):
        read_idx(path, 2)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
def test_a_pipe_in_the_place_of_an_idx_file_is_not_waited_for(tmp_path, name):
    write_idx_folder(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=f"cannot read .*{name}: it is a pipe or a device, and a regular file is"):
        load_labelled(str(tmp_path))


def test_a_csv_file_is_divided(tmp_path):
    path = tmp_path / "set.csv"
    np.savetxt(path, np.column_stack([np.arange(20).repeat(9).reshape(20, 9), np.arange(20) % 2]), "%d", ",")
    labelled = load_labelled(str(path))
    assert (len(labelled.train_labels), len(labelled.test_labels)) == (16, 4)
    together = np.concatenate([labelled.train_inputs[:, 0], labelled.test_inputs[:, 0]])
    assert sorted(together.tolist()) == list(range(20))


def test_nine_columns_are_an_image_only_where_somebody_says_so(tmp_path):
    path = tmp_path / "set.csv"
    path.write_text("1,2,3,4,5,6,7,8,9,0\n" * 10)
    for images, size in ((False, (0, 0)), (True, (3, 3))):
        labelled = load_labelled(str(path), images=images)
        assert (labelled.height, labelled.width) == size
    path.write_text("1,2,3,0\n" * 10)
    with pytest.raises(InputError, match="3 numbers before the label are no square"):
        load_labelled(str(path), images=True)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1,2,3"] * 9, "10 lines"),
        (["1,2,3"] * 9 + ["300,2,1"], "from 0 to 255"),
        (["1,2,3"] * 9 + ["3,2,0.5"], "a whole number"),
        (["1,2,3"] * 9 + ["nan,2,1"], "from 0 to 255"),
        (["1,2,3"] * 9 + ["0.25,1,1"], "whole numbers from 0 to 255 .* got 0.25: scale the columns to 0-255"),
        (["1,2,3"] * 9 + ["word,2,1"], "lines of numbers"),
        (["1,2,3"] * 9 + ["2,1"], "changed from 3 to 2 at row 10$"),
        ([], "holds no numbers"),
        (["# a remark"], "holds no numbers"),
    ],
)
def test_what_is_no_set_is_refused(tmp_path, lines, message):
    path = tmp_path / "set.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=message):
        load_labelled(str(path))


@pytest.mark.parametrize("name", ["set.csv", "set.csv.gz"])
def test_memory_for_a_csv_file_is_asked_for_before_it_is_taken(tmp_path, monkeypatch, name):
    content = b"1,2,3\n" * 2_000_000
    path = tmp_path / name
    path.write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)
    monkeypatch.setattr(limits, "available_memory", lambda: 10_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"the numbers of .* need .* MB of memory and 10\.0 MB are available"):
            load_labelled(str(path))
        assert tracemalloc.get_traced_memory()[1] < len(content) / 2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["set.csv", "set.csv.gz"])
def test_a_csv_file_is_read_piece_by_piece_to_its_end_or_its_limit(tmp_path, monkeypatch, name):
    content = "".join(f"{n % 256},{n // 256},{n % 2}\n" for n in range(1000)).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    monkeypatch.setattr(examples, "_PIECE", 7)
    labelled = load_labelled(str(path))
    together = np.concatenate([labelled.train_inputs, labelled.test_inputs]).astype(int)
    assert sorted(together @ [1, 256]) == list(range(1000))
    monkeypatch.setattr(examples, "_LONGEST_CSV", len(content) - 1)
    with pytest.raises(InputError, match="is too long: more than"):
        load_labelled(str(path))


def test_missing_data_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such data: nowhere"):
        load_labelled("nowhere")
    with pytest.raises(InputError, match="must have one file like train-images-idx3"):
        load_labelled(str(tmp_path))


def test_digits_come_with_scikit_learn():
    labelled = load_labelled("digits")
    assert (len(labelled.train_labels), len(labelled.test_labels), labelled.n_inputs) == (1437, 360, 64)
    assert labelled.train_inputs.max() == 255


def test_division_is_fixed_and_complete():
    labels = np.arange(103)
    a, b = divide(labels[:, None], labels), divide(labels[:, None], labels)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert sorted([*a[1], *a[3]]) == labels.tolist()
    assert len(a[3]) == 21


def some_images(n: int = 10) -> LabelledSet:
    images = np.zeros((n, 4, 5), dtype=np.uint8)
    images[:, 1, 1] = np.arange(1, n + 1)
    labels = np.arange(n, dtype=np.int64) % 2
    flat = images.reshape(n, -1)
    return LabelledSet("dots", "dots", None, flat, labels, flat, labels, ("a", "b"), 4, 5, mirrors=True)


def test_every_pass_meets_every_example_once_and_a_step_is_a_pure_function():
    batches = Batches(some_images(), batch=4, augment="none", seed=3)
    met = torch_ids(batches, 5)
    assert sorted(met[:10]) == sorted(met[10:]) == list(range(1, 11))
    assert met[:10] != met[10:]
    again = Batches(some_images(), batch=4, augment="none", seed=3)
    assert [again.batch(k)[0].tolist() for k in (3, 1)] == [batches.batch(k)[0].tolist() for k in (3, 1)]


def torch_ids(batches: Batches, n_steps: int) -> list[int]:
    return [round(float(x.max()) * 255) for k in range(n_steps) for x in batches.batch(k)[0]]


def test_shifts_move_by_at_most_one_pixel_and_mirrors_turn_half():
    batches = Batches(some_images(), batch=10, augment="shift", seed=0)
    places = {divmod(int(x.argmax()), 5) for k in range(40) for x in batches.batch(k)[0] if x.max() > 0}
    assert places == {(row, column) for row in (0, 1, 2) for column in (0, 1, 2)}
    mirrored = Batches(some_images(), batch=10, augment="shift+mirror", seed=0)
    columns = [int(x.argmax()) % 5 for k in range(40) for x in mirrored.batch(k)[0]]
    assert set(columns) == {0, 1, 2, 3, 4}
    assert 0.3 < np.mean([c > 2 for c in columns]) * 3 / 2 < 0.7


def test_impossible_batches_are_refused():
    flat = LabelledSet("x", "x", None, *[np.zeros((2, 3), np.uint8), np.zeros(2, np.int64)] * 2, ("a", "b"))
    with pytest.raises(InputError, match="needs images"):
        Batches(flat, batch=2, augment="shift", seed=0)
    with pytest.raises(InputError, match="augment must be one of"):
        Batches(flat, batch=2, augment="rotate", seed=0)
    with pytest.raises(InputError, match="batch must be at least 1"):
        Batches(flat, batch=0, augment="none", seed=0)


def test_sets_that_do_not_fit_together_are_refused():
    inputs, labels = np.zeros((2, 3), np.uint8), np.zeros(2, np.int64)
    with pytest.raises(InputError, match="as many labels as examples"):
        LabelledSet("x", "x", None, inputs, labels[:1], inputs, labels, ("a", "b"))
    with pytest.raises(InputError, match=r"labels must lie in \[0, 2\)"):
        LabelledSet("x", "x", None, inputs, labels, inputs, labels + 2, ("a", "b"))
    with pytest.raises(InputError, match="must have one size"):
        LabelledSet("x", "x", None, inputs, labels, inputs[:, :2], labels, ("a", "b"))
