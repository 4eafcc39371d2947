"""The one exception that says: what was given cannot be used."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave (a file, an option, a checkpoint) cannot be used.

    The message is one line without a final full stop that names what was given, what was expected, what came
    and, where it can be guessed, the likely cause. The command line prints it after ``error:`` and ends with
    exit code 2; a program that uses the library may catch it like any ``ValueError``.

    Example:
        >>> raise InputError("--length must be at least 1; got 0")
        Traceback (most recent call last):
        ...
        polychron.errors.InputError: --length must be at least 1; got 0
    """


class UnsupportedModelError(InputError):
    """A model that is right, but of a kind that what was asked for cannot do."""
