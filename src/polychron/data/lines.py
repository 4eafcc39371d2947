"""Lines of numbers, as a table."""

from __future__ import annotations

import warnings
from typing import IO

import numpy as np


def read_lines(file: IO, delimiter: str | None = None, dtype: type = np.float64) -> np.ndarray:
    """The numbers (lines, columns) of an open file; none where it has none.

    Args:
        file: of text or bytes.
        delimiter: between two numbers; None: any space.
        dtype: of the numbers.

    Raises:
        ValueError: something is no number, or the lines are of different lengths; in words for who wrote the file.

    Example:
        >>> import io
        >>> read_lines(io.StringIO("1 2")), read_lines(io.StringIO("")).size
        (array([[1., 2.]]), 0)
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "loadtxt: input contained no data", UserWarning)
        try:
            return np.loadtxt(file, delimiter=delimiter, dtype=dtype, ndmin=2)
        except ValueError as error:  # after a semicolon it advises who calls loadtxt
            raise ValueError(str(error).partition(";")[0]) from None
