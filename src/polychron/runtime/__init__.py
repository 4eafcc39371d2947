"""Running a trained model without PyTorch: streams of bytes, what a text costs, and drawing the next byte."""

from polychron.runtime.model import Model, load
from polychron.runtime.options import SamplingOptions
from polychron.runtime.text_stream import TextStream, generate_many

__all__ = ["Model", "SamplingOptions", "TextStream", "generate_many", "load"]
