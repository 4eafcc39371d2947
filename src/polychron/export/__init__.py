"""Trained models as programs: C without a multiplication."""

from polychron.export.c_source import export_c
from polychron.export.integer_classifier import read_integer_classifier
from polychron.export.integer_model import read_integer_model

__all__ = ["export_c", "read_integer_classifier", "read_integer_model"]
