"""Names of data that are safe in a folder's name everywhere."""

from __future__ import annotations


def safe_name(name: str, otherwise: str) -> str:
    """At most 40 letters, digits, - and _ of a name; ``otherwise`` where it has none.

    Example:
        >>> safe_name("Emma, vol. 1", "text"), safe_name("...", "text")
        ('Emma--vol--1', 'text')
    """
    safe = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "-" for letter in name)
    return safe.strip("-")[:40] or otherwise
