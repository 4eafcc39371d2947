"""The page: its WebAssembly and its draws write what the int8 runtime writes."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from polychron import runtime
from polychron.errors import InputError
from polychron.export import read_integer_model
from polychron.export.web_page import compile_wasm, export_web
from polychron.runtime import SamplingOptions

from ..runtime.conftest import MODELS, random_model, save_model
from ..runtime.test_quantized import quantized

needs_clang = pytest.mark.skipif(
    shutil.which("clang") is None or shutil.which("wasm-ld") is None, reason="no clang and wasm-ld (Debian: lld)"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

RUN = """
const about = JSON.parse(require("fs").readFileSync(0, "utf8"));
const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
Model.load(bytes(about.program), bytes(about.tables), about).then((model) => {
  const texts = about.settings.map(([prompt, temperature, topP, seed, n]) => {
    model.begin(Buffer.from(prompt), temperature, topP, seed);
    return Buffer.from(Array.from({ length: n }, () => model.next())).toString("base64");
  });
  console.log(JSON.stringify(texts));
});
"""


def saved(name: str, folder: Path) -> Path:
    return quantized(save_model(random_model(MODELS[name]), folder / "run"), "int8")


def about(page: Path) -> dict:
    return json.loads(re.search(r'<script id="model" type="application/json">(.*?)</script>', page.read_text())[1])


@needs_clang
@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
@pytest.mark.parametrize("name", ["two delay layers", "transformer"])
def test_a_page_writes_what_the_runtime_writes(name: str, tmp_path: Path):
    folder = saved(name, tmp_path)
    done = export_web(read_integer_model(folder), tmp_path / "page", title="A <title>", prompt="</textarea>")
    assert done.page == tmp_path / "page.html"
    assert "<title>A &lt;title&gt;</title>" in done.page.read_text()
    settings = [
        ("ab\n", 0.8, 1.0, 1, 300), ("", 1.3, 0.95, 4294967295, 300), ("xyz", 0, 0.9, 5, 100), ("q", 40.0, 0.5, 2, 200),
        ("ab", 1.0, 1e-9, 3, 100),
    ]  # fmt: skip
    core = resources.files("polychron.export").joinpath("web/core.js").read_text()
    ran = subprocess.run(
        ["node", "-e", core + RUN], input=json.dumps({**about(done.page), "settings": settings}), capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    stream = runtime.load(folder).stream()
    for (prompt, temperature, top_p, seed, n), text in zip(settings, json.loads(ran.stdout), strict=True):
        stream.start(prompt.encode())
        expected = stream.generate(n, SamplingOptions(temperature=temperature, top_p=top_p, seed=seed))
        assert base64.b64decode(text) == expected


@needs_clang
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_browser_opens_the_page_from_disk_and_it_writes(tmp_path: Path):
    folder = saved("delay", tmp_path)
    page = export_web(read_integer_model(folder), tmp_path / "page.html", title="A page", temperature=0.7).page
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--dump-dom", f"{page.as_uri()}#start-fast"]
    for milliseconds in (3_000, 30_000, 300_000):  # of the page's clock, which does not wait for WebAssembly's compiler
        budget = f"--virtual-time-budget={milliseconds}"
        ran = subprocess.run([*command, budget], capture_output=True, text=True, timeout=300, check=True)
        if re.search(r'id="written">[\d,]+ bytes', ran.stdout):
            break
    shown = html.unescape(re.search(r'id="prompt-shown"></span>(.*?)</div>', ran.stdout, re.DOTALL)[1])
    n_written = int(re.search(r'id="written">([\d,]+) bytes', ran.stdout)[1].replace(",", ""))
    assert n_written > 100
    assert len(shown) == min(n_written, 40_000)
    stream = runtime.load(folder).stream()
    stream.start(b"")
    assert stream.generate(n_written, SamplingOptions(temperature=0.7, top_p=0.95, seed=1)).decode().endswith(shown)


@needs_clang
def test_the_wasm_neither_multiplies_nor_divides_nor_has_floating_point(tmp_path: Path):
    objdump = shutil.which("llvm-objdump") or next(iter(sorted(Path("/usr/bin").glob("llvm-objdump-*"))), None)
    if objdump is None:
        pytest.skip("no llvm-objdump")
    program, _ = compile_wasm(read_integer_model(saved("transformer", tmp_path)))
    (tmp_path / "model.wasm").write_bytes(program)
    shown = subprocess.run([objdump, "-d", tmp_path / "model.wasm"], capture_output=True, text=True, check=True).stdout
    shown = shown.replace("f32.select", "select")  # one opcode for all types, which LLVM shows as the first of them
    operations = set(re.findall(r"\t((?:i32|i64|f32|f64|v128)\.\w+)", shown))
    assert {"i32.add", "i32.sub", "i32.shl"} <= operations
    assert not {operation for operation in operations if re.search(r"mul|div|rem|^f|^v", operation)}


def test_a_machine_without_clang_is_told_what_to_install(tmp_path: Path, monkeypatch):
    model = read_integer_model(saved("readout alone", tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="a page needs clang, which is not installed"):
        export_web(model, tmp_path / "page", title="x")
