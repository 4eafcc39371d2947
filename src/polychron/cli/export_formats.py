"""``polychron export --to hf | onnx``: a trained model for other libraries."""

from __future__ import annotations

from pathlib import Path

from polychron.cli.output import print_json, print_line
from polychron.errors import InputError
from polychron.limits import format_bytes


def run_export_hf(directory: Path, *, out: Path, json: bool) -> None:
    """Write a folder for the Hugging Face libraries and say what loads it."""
    try:
        import transformers

        from polychron.export.huggingface import export_hf
    except ModuleNotFoundError as error:
        raise _missing(error, "hf", "transformers") from None
    transformers.utils.logging.disable_progress_bar()
    done = export_hf(directory, out)
    if json:
        print_json({"folder": str(done.folder), "bytes": done.n_bytes, "loads_with": done.loads_with})
        return
    print_line(f"{done.folder}: {format_bytes(done.n_bytes)}, for {done.loads_with}.from_pretrained")


def run_export_onnx(directory: Path, *, out: Path, json: bool) -> None:
    """Write an ONNX file and say what goes in and comes out."""
    try:
        from polychron.export.onnx_model import export_onnx
    except ModuleNotFoundError as error:
        raise _missing(error, "onnx", "onnx") from None
    from polychron.export.network import read_network

    done = export_onnx(read_network(directory), out)
    if json:
        print_json({"file": str(done.file), "bytes": done.n_bytes, "input": done.inputs, "output": done.outputs})
        return
    print_line(f"{done.file}: {format_bytes(done.n_bytes)}, {done.inputs} -> {done.outputs}")


def _missing(error: ModuleNotFoundError, kind: str, extra: str) -> InputError | ModuleNotFoundError:
    package = (error.name or "").partition(".")[0]
    if package == "polychron":
        return error
    return InputError(f"export --to {kind} needs {package}, which is missing: pip install 'polychron[{extra}]'")
