"""What needs no terminal library: JSON lines, and bytes made safe for the eye."""

from __future__ import annotations

import codecs
import json
import sys
import unicodedata
from typing import Any, TextIO


def print_json(fields: dict[str, Any]) -> None:
    """One JSON object on one line of standard output, at once."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def print_line(text: str) -> None:
    """A line for people on standard output, at once, made safe for the eye: a stranger's file may have a part in it."""
    print(visible(text), flush=True)


class ByteStream:
    """Writes bytes as they come: unchanged to a file or pipe, made safe for the eye to a terminal.

    On a terminal, bytes are held until they make a whole UTF-8 character; what is no UTF-8 becomes U+FFFD,
    and control characters other than newline and tab, which could command the terminal, become U+00B7.
    """

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace") if output.isatty() else None

    def write(self, piece: bytes) -> None:
        """Write and flush."""
        if self._decoder is None:
            self._output.buffer.write(piece)
            self._output.buffer.flush()
        else:
            self._show(self._decoder.decode(piece))

    def close(self) -> None:
        """Write what is held back; on a terminal, end the line."""
        if self._decoder is not None:
            self._show(self._decoder.decode(b"", final=True) + "\n")

    def _show(self, text: str) -> None:
        self._output.write(visible(text))
        self._output.flush()


def visible(text: str) -> str:
    """The text with control characters other than newline and tab replaced by a middle dot.

    Example:
        >>> visible("a\\x1b[31mb\\n")
        'a·[31mb\\n'
    """
    return "".join(
        letter if letter in "\n\t" or unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Co") else "·"
        for letter in text
    )
