"""The C export, compiled: it says what the runtime says, bit for bit, and neither multiplies nor divides."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Set
from pathlib import Path

import numpy as np
import pytest

from polychron import runtime
from polychron.errors import InputError
from polychron.export import export_c
from polychron.export.integer_model import read_integer_model
from polychron.runtime import SamplingOptions

from ..runtime.conftest import MODELS, SavedModel, random_model, random_text, save_model
from ..runtime.test_quantized import quantized, streamed_units
from ..training.test_checkpoint import files_limited_to

Saved = Callable[[str], SavedModel]

WARNINGS = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror")
SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
TEMPLATE = Path(__file__).with_name("replay.c.in")

# Integer and floating-point multiplication, division, and any other arithmetic on floating-point numbers.
X86 = re.compile(
    r"v?p?(i?mul|mulx|i?div|pmadd\w*|mul\w*|mull\w*)[a-z]*|f(add|sub|mul|div|ld|ild|st|sqrt)\w*"
    r"|v?(add|sub|mul|div|sqrt|min|max|ucomi|comi|cvt\w*2)(ss|sd|ps|pd)|vf?n?m(add|sub)\w*"
)
ARM = re.compile(r"(mul|mla|mls|smull|umull|smlal|umlal|sdiv|udiv|v\w+\.f\d+)s?")


@pytest.mark.parametrize("in_file", [False, True])
def test_a_full_disk_leaves_the_old_files_together(in_file: bool, tmp_path: Path):
    model = read_integer_model(save_model(random_model(MODELS["delay"]), tmp_path / "run"))
    out = tmp_path / "out"
    tables = out / "model.tables" if in_file else None
    export_c(model, out / "model", tables=tables)
    sizes = sorted(path.stat().st_size for path in out.iterdir())  # the header is the shortest
    for path in out.iterdir():
        path.write_text("the last one")
    for n_bytes in {0, 100, *(size - 1 for size in sizes)}:
        with files_limited_to(n_bytes), pytest.raises(InputError, match="cannot write"):
            export_c(model, out / "model", tables=tables)
        assert len(list(out.iterdir())) == len(sizes)
        assert {path.read_text() for path in out.iterdir()} == {"the last one"}


def test_a_folder_in_the_way_leaves_the_old_files(tmp_path: Path):
    model = read_integer_model(save_model(random_model(MODELS["delay"]), tmp_path / "run"))
    (tmp_path / "model.c").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*model\.c: it is a folder"):
        export_c(model, tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "model.c"}


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    def make(name: str) -> SavedModel:
        model = random_model(MODELS[name])
        return model, save_model(model, tmp_path / "run")

    return make


def compiled(compiler: str, source: Path, *options: str) -> Path:
    harness = source.with_name("replay.c")
    harness.write_text(TEMPLATE.read_text().replace("@NAME@", source.stem))
    program = source.with_name(f"replay-{compiler}")
    subprocess.run([compiler, *WARNINGS, *options, source, harness, "-o", program], check=True)
    return program


def replayed(
    program: Path, text: bytes, n_tokens: int, n_bytes: int, tables: Path | None = None
) -> tuple[np.ndarray, bytes, bytes]:
    """Logits, likeliest bytes, and what was written."""
    done = subprocess.run([program, str(n_bytes), *filter(None, [tables])], input=text, capture_output=True, check=True)
    size = (4 * n_tokens + 1) * len(text)
    steps = np.frombuffer(done.stdout[:size], dtype=np.uint8).reshape(len(text), -1)
    return np.ascontiguousarray(steps[:, :-1]).view(np.int32), steps[:, -1].tobytes(), done.stdout[size:]


@pytest.fixture(scope="module", params=COMPILERS)
def sanitizing_compiler(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its name; skipped where the compiler came without the sanitizers' libraries."""
    source = tmp_path_factory.mktemp("probe") / "probe.c"
    source.write_text("int main(void) { return 0; }\n")
    command = [request.param, *SANITIZERS, source, "-o", source.with_suffix("")]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(f"{request.param} has no sanitizers")
    return request.param


@pytest.mark.parametrize(
    ("name", "in_file"),
    [*((name, False) for name in MODELS if name != "recurrent"), ("two delay layers", True), ("transformer", True)],
    ids=lambda value: value if isinstance(value, str) else ("arrays", "file")[value],
)
def test_it_says_what_the_runtime_says_bit_for_bit(
    name: str, in_file: bool, sanitizing_compiler: str, saved: Saved, tmp_path: Path
):
    folder = quantized(saved(name)[1], "int8")
    model = runtime.load(folder)
    tables = tmp_path / "model.tables" if in_file else None
    done = export_c(read_integer_model(folder), tmp_path / "out" / "model.c", temperature=0.7, top_p=0.9, tables=tables)
    text = random_text(800)
    program = compiled(sanitizing_compiler, done.source, "-O1", *SANITIZERS, *(["-DTABLES"] if in_file else []))
    logits, likeliest, written = replayed(program, text, model.vocabulary.size, 800, tables)
    expected = streamed_units(model, text)
    assert np.array_equal(logits, expected)
    assert likeliest == model.vocabulary.decode(expected[:, :-1].argmax(axis=1))
    stream = model.stream()
    stream.read(text)
    assert written == stream.generate(800, SamplingOptions(temperature=0.7, top_p=0.9, seed=7))


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 1.0), (1.0, 0.95), (0.5, 0.5), (3.0, 0.3), (1.0, 1e-9), (40.0, 0.9999)]
)
@pytest.mark.skipif(not COMPILERS, reason="no C compiler")
def test_its_draws_are_the_runtimes_for_any_temperature_and_top_p(
    temperature: float, top_p: float, saved: Saved, tmp_path: Path
):
    folder = quantized(saved("readout alone")[1], "int8")
    done = export_c(read_integer_model(folder), tmp_path / "model", temperature=temperature, top_p=top_p)
    model = runtime.load(folder)
    _, _, written = replayed(compiled(COMPILERS[0], done.source), b"ab", model.vocabulary.size, 2000)
    stream = model.stream()
    stream.read(b"ab")
    assert written == stream.generate(2000, SamplingOptions(temperature=temperature, top_p=top_p, seed=7))


def functions(disassembly: str) -> Iterator[tuple[str, list[str]]]:
    """Names of functions and the mnemonics in them."""
    for block in re.split(r"\n(?=[0-9a-f]+ <)", disassembly):
        found = re.match(r"[0-9a-f]+ <(\w[\w.]*)>:", block)
        if found:
            yield found[1], re.findall(r"^ *[0-9a-f]+:\t(?:[0-9a-f]{2,8} )+ *\t([a-z][\w.]*)", block, re.MULTILINE)


PUBLIC = {"model_read", "model_draw", "model_reset", "model_seed", "model_likeliest", "model_logit"}


def check_functions(disassembly: str, forbidden: re.Pattern[str], public: Set[str] = PUBLIC) -> None:
    names = set()
    for name, mnemonics in functions(disassembly):
        names.add(name)
        assert mnemonics, name
        assert [m for m in mnemonics if forbidden.fullmatch(m)] == [], name
    assert public <= names


@pytest.mark.parametrize("name", ["two delay layers", "transformer"])
@pytest.mark.parametrize("optimization", ["-O3", "-Os"])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_function_multiplies_divides_or_uses_floating_point(
    compiler: str, optimization: str, name: str, saved: Saved, tmp_path: Path
):
    done = export_c(read_integer_model(saved(name)[1]), tmp_path / "model")
    for target in ([], ["-mavx2"]) if optimization == "-O3" else ([],):
        subprocess.run(
            [compiler, *WARNINGS, optimization, *target, "-c", done.source, "-o", tmp_path / "o"], check=True
        )
        shown = subprocess.run(["objdump", "-d", tmp_path / "o"], capture_output=True, text=True, check=True)
        check_functions(shown.stdout, X86)
    symbols = subprocess.run(["nm", "-u", tmp_path / "o"], capture_output=True, text=True, check=True).stdout.split()
    assert set(symbols) <= {"U", "memset", "memcpy", "memmove", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}


def test_the_check_of_the_disassembly_sees_a_multiplication(tmp_path: Path):
    (tmp_path / "a.c").write_text(
        "int model_read(int a, int b) { return a * b; }\nfloat model_draw(float a) { return a + 1; }\n"
        "unsigned model_seed(unsigned a, unsigned b) { return a / b; }\n"
    )
    subprocess.run(["gcc", "-O2", "-c", tmp_path / "a.c", "-o", tmp_path / "a.o"], check=True)
    shown = subprocess.run(["objdump", "-d", tmp_path / "a.o"], capture_output=True, text=True, check=True).stdout
    seen = {name for name, mnemonics in functions(shown) if any(X86.fullmatch(m) for m in mnemonics)}
    assert seen == {"model_read", "model_draw", "model_seed"}


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="no compiler for Cortex-M")
@pytest.mark.parametrize("name", ["two delay layers", "transformer"])
@pytest.mark.parametrize("cpu", ["cortex-m0", "cortex-m3", "cortex-m4"])
def test_nor_does_any_on_a_microcontroller(cpu: str, name: str, saved: Saved, tmp_path: Path):
    done = export_c(read_integer_model(saved(name)[1]), tmp_path / "model")
    for optimization in ("-Os",) if cpu == "cortex-m3" else ("-Os", "-O2"):
        command = ["arm-none-eabi-gcc", *WARNINGS, "-ffreestanding", "-mthumb", f"-mcpu={cpu}", optimization]
        subprocess.run([*command, "-c", done.source, "-o", tmp_path / "o"], check=True)
        shown = subprocess.run(
            ["arm-none-eabi-objdump", "-d", tmp_path / "o"], capture_output=True, text=True, check=True
        )
        check_functions(shown.stdout, ARM)
        symbols = subprocess.run(["arm-none-eabi-nm", "-u", tmp_path / "o"], capture_output=True, text=True, check=True)
        assert set(symbols.stdout.split()) <= {"U", "memset", "memcpy"}


def test_a_float_model_is_quantised_on_the_way(saved: Saved, tmp_path: Path):
    _, folder = saved("delay")
    direct = export_c(read_integer_model(folder), tmp_path / "a" / "model").source.read_text()
    assert (
        export_c(read_integer_model(quantized(folder, "int8")), tmp_path / "b" / "model").source.read_text() == direct
    )


def test_the_sizes_it_gives_are_the_compilers(saved: Saved, tmp_path: Path):
    done = export_c(read_integer_model(saved("two delay layers")[1]), tmp_path / "model")
    subprocess.run(["gcc", "-Os", "-c", done.source, "-o", tmp_path / "o"], check=True)
    sections = subprocess.run(["size", "-A", tmp_path / "o"], capture_output=True, text=True, check=True).stdout
    constants = sum(int(size) for size in re.findall(r"^\.(?:ro)?data\S*\s+(\d+)", sections, re.MULTILINE))
    assert done.flash_bytes <= constants < done.flash_bytes + 2000
    (tmp_path / "size.c").write_text(
        '#include <stdio.h>\n#include "model.h"\nint main(void) { return printf("%zu", sizeof(model_state)) < 0; }\n'
    )
    subprocess.run(["gcc", tmp_path / "size.c", "-o", tmp_path / "size"], check=True)
    state = int(subprocess.run([tmp_path / "size"], capture_output=True, check=True).stdout)
    assert done.ram_bytes <= state < done.ram_bytes + 16


@pytest.mark.parametrize(
    ("out", "draws", "message"),
    [
        ("9lives", {}, "begins with a letter"),
        ("model", {"temperature": 0.0}, "temperature must be above 0 in C"),
        ("model", {"temperature": -1.0}, "temperature must be 0 or above"),
        ("model", {"top_p": 0.0}, "top-p must be above 0"),
    ],
)
def test_what_c_cannot_express_is_refused(
    out: str, draws: dict[str, float], message: str, saved: Saved, tmp_path: Path
):
    model = read_integer_model(saved("delay")[1])
    with pytest.raises(InputError, match=message):
        export_c(model, tmp_path / out, **draws)
    assert not (tmp_path / "model.c").exists()


def test_models_that_are_no_integers_or_too_large_are_refused(saved: Saved, tmp_path: Path, monkeypatch):
    _, folder = saved("delay")
    with pytest.raises(InputError, match="is quantised to bfloat16, which takes floating point"):
        read_integer_model(quantized(folder, "bfloat16"))
    monkeypatch.setattr("polychron.export.c_source._MAXIMUM_TABLE_BYTES", 1000)
    with pytest.raises(InputError, match=r"of tables and C arrays are limited to 1\.0 kB"):
        export_c(read_integer_model(folder), tmp_path / "model")
