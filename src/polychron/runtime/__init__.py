"""Running a trained model: streams of tokens, and sampling from logits."""

from polychron.runtime.stream import Stream

__all__ = ["Stream"]
