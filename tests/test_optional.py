"""What is optional is not needed by what is not."""

from __future__ import annotations

import subprocess
import sys


def test_nothing_but_what_needs_them_imports_optional_packages():
    program = """
import sys
for name in ("huggingface_hub", "transformers", "tokenizers", "onnx", "onnxruntime", "starlette", "uvicorn"):
    sys.modules[name] = None
import polychron.cli.app, polychron.cli.serve, polychron.cli.export_formats
import polychron.export.network, polychron.models, polychron.runtime, polychron.training
"""
    subprocess.run([sys.executable, "-c", program], check=True)
