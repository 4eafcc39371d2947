"""Compiles a measurement for a board, runs it in qemu, reads what it says."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
CALIBRATION_INSTRUCTIONS = 2_000_000
OPTIMIZATION = "-O2"


@dataclass(frozen=True)
class Board:
    """A simulated board.

    Attributes:
        compiler: prefix of the cross compiler's programs.
        flags: of the processor.
        script: of the linker; None: the compiler's own, with its library.
        emulator: command, before the program.
        code: what the board itself needs.
        unit: what its clock counts.
    """

    compiler: str
    flags: tuple[str, ...]
    script: str | None
    emulator: tuple[str, ...]
    code: str = "board.c"
    unit: str = "instructions"


_ARM, _RISCV = "arm-none-eabi-", "riscv64-unknown-elf-"
_QEMU = (
    "-nographic", "-monitor", "none", "-serial", "none", "-icount", "shift=0", "-semihosting-config",
    "enable=on,target=native", "-kernel",
)  # fmt: skip
BOARDS = {
    "cortex-m0": Board(
        _ARM, ("-mthumb", "-mcpu=cortex-m0"), "cortex_m.ld", ("qemu-system-arm", "-M", "microbit", *_QEMU)
    ),
    "cortex-m3": Board(
        _ARM, ("-mthumb", "-mcpu=cortex-m3"), "cortex_m.ld", ("qemu-system-arm", "-M", "mps2-an385", *_QEMU)
    ),
    "cortex-m4": Board(
        _ARM, ("-mthumb", "-mcpu=cortex-m4"), "cortex_m.ld", ("qemu-system-arm", "-M", "mps2-an386", *_QEMU)
    ),
    "rv32imc": Board(
        _RISCV, ("-march=rv32imc_zicsr", "-mabi=ilp32", "-mcmodel=medany"), "riscv32.ld",
        ("qemu-system-riscv32", "-M", "virt", "-bios", "none", *_QEMU),
    ),
    "atmega1284p": Board(
        "avr-", ("-mmcu=atmega1284p",), None, ("simavr", "-m", "atmega1284p", "-f", "16000000"), "board_avr.c", "cycles"
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What a program was found to need.

    Attributes:
        instructions: of an inference, mean; on a board whose clock counts cycles, those.
        flash_bytes: code and constants of the network alone.
        ram_bytes: its state.
        stack_bytes: below the caller of an inference.
        answers: a digest of all logits, to compare.
        text: what it wrote, if it did.
    """

    instructions: float
    flash_bytes: int
    ram_bytes: int
    stack_bytes: int
    answers: int
    text: str


def missing(board: Board) -> list[str]:
    """Programs that the board needs and the machine has not."""
    return [name for name in (f"{board.compiler}gcc", board.emulator[0]) if shutil.which(name) is None]


def measure(board: Board, source: Path, main: str, n_inferences: int, *options: str) -> Measured:
    """Compile ``source`` (beside its header) with a program's text, run it.

    Raises:
        RuntimeError: the program ended without its figures.
    """
    folder = source.parent
    program = folder / f"{source.stem}_main.c"
    program.write_text(main)
    flags = [*board.flags, "-std=gnu99", OPTIMIZATION, "-ffunction-sections", "-Wall", "-Wextra"]
    flags += [f"-I{HERE}", f"-I{folder}", *options]
    link = [*board.flags, "-Wl,--gc-sections"]
    if board.script is not None:
        flags += ["-ffreestanding", "-fno-tree-loop-distribute-patterns"]
        link += ["-nostdlib", "-nostartfiles", f"-T{HERE / board.script}"]
    objects = []
    for file in (source, program, HERE / board.code):
        objects.append(folder / f"{file.stem}.o")
        subprocess.run([f"{board.compiler}gcc", *flags, "-c", file, "-o", objects[-1]], check=True)
    elf = folder / f"{source.stem}.elf"
    subprocess.run([f"{board.compiler}gcc", *link, *objects, "-lgcc", "-o", elf], check=True)
    size = subprocess.run([f"{board.compiler}size", objects[0]], capture_output=True, text=True, check=True).stdout
    text, data = map(int, size.splitlines()[1].split()[:2])
    done = subprocess.run([*board.emulator, str(elf)], capture_output=True, timeout=300, check=False)
    said = re.sub(
        r"\x1b\[[0-9;]*m|\.\.?(?=\n)", "", (done.stdout + done.stderr).decode("latin1")
    )  # simavr colours its lines
    numbers = {name: int(number, 16) for name, number in re.findall(r"^(\w+) ([0-9a-f]{8})$", said, re.MULTILINE)}
    if set(numbers) != {"calibration", "stack", "answers", "ticks", "state"}:
        raise RuntimeError(f"the program on the board did not end as it should: {said[-500:]!r}")
    per_tick = CALIBRATION_INSTRUCTIONS / numbers["calibration"]
    written = said.partition("\ntext ")[2]
    return Measured(
        numbers["ticks"] * per_tick / n_inferences, text + data, numbers["state"], numbers["stack"],
        numbers["answers"], written,
    )  # fmt: skip


def digest(rows: list[list[int]], classes: list[int] | None = None) -> int:
    """What a program on the board computes of its logits, and of its classes where it names some."""
    total = 0
    for at, row in enumerate(rows):
        if classes is not None:
            total = _rotated(total, 1) ^ classes[at]
        for logit in row:
            total = (_rotated(total, 5) + logit) & 0xFFFFFFFF
    return total


def _rotated(number: int, bits: int) -> int:
    return (number << bits | number >> (32 - bits)) & 0xFFFFFFFF


def filled(template: str, **values: object) -> str:
    """A program's text."""
    return re.sub(r"@(\w+)@", lambda match: str(values[match[1]]), (HERE / template).read_text())
