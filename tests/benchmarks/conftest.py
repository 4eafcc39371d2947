"""The small text and twins that the twins' own tests have."""

from tests.twins.conftest import TINY, recipe, split, text_path

__all__ = ["TINY", "recipe", "split", "text_path"]
