"""A small HTTP server for one trained model, on the native runtime; ``pip install 'polychron[serve]'``."""

from polychron.server.app import create_app
from polychron.server.limits import Limits
from polychron.server.process import listen, run

__all__ = ["Limits", "create_app", "listen", "run"]
