"""Running a trained model without PyTorch: streams of bytes, what a text costs, and drawing the next byte."""

from polychron.runtime.counting import StageCounts, count_text
from polychron.runtime.model import Model, load
from polychron.runtime.options import SamplingOptions
from polychron.runtime.text_stream import TextStream, generate_many

__all__ = ["Model", "SamplingOptions", "StageCounts", "TextStream", "count_text", "generate_many", "load"]
