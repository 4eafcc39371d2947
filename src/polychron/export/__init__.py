"""Trained models as programs: C without a multiplication."""

from polychron.export.c_source import export_c

__all__ = ["export_c"]
