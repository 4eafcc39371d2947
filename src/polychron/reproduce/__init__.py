"""What the paper publishes, measured again: one item at a time, each with a verdict in words."""

from polychron.reproduce.items import ITEMS, reproduce
from polychron.reproduce.outcome import CONFIRMED, NOT_CONFIRMED, OTHER_SCALE, Finding, Reproduction

__all__ = ["CONFIRMED", "ITEMS", "NOT_CONFIRMED", "OTHER_SCALE", "Finding", "Reproduction", "reproduce"]
