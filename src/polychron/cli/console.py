"""What a person or a program sees: progress, summaries, generated text, JSON lines."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from polychron.cli.output import print_json, print_line, visible
from polychron.training.run import BesideReport, CheckpointReport, Event, ValidationReport
from polychron.training.steps import StepReport

# Lines of a log are further apart than a terminal's refreshes.
LOG_SECONDS = 10.0


def make_console() -> Console:
    """Standard output; coloured only on a terminal and where NO_COLOR is not set."""
    return Console(highlight=False, markup=False, soft_wrap=True)


def say(console: Console, line: str, style: str = "") -> None:
    """One line for people, whole even where it is longer than the terminal is wide, and made safe for the eye."""
    if console.is_terminal:
        console.print(visible(line), style=style)
    else:  # not through rich, which would end the process when nobody reads on
        print_line(line)


def variant_words(hash: str, reading: str, gradient: str) -> str:
    """What a model's line says of its variant; nothing of the paper's.

    Example:
        >>> variant_words("bins", "hard", "all"), variant_words("order", "hard", "nearest")
        ('; hash bins, gradient all, in PyTorch', '')
    """
    parts = (("hash", hash, "order"), ("reading", reading, "hard"), ("gradient", gradient, "nearest"))
    words = [f"{name} {value}" for name, value, usual in parts if value != usual]
    return f"; {', '.join(words)}, in PyTorch" if words else ""


class StatusLine:
    """A line at the bottom of a terminal, rewritten in place; nothing where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._live = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(console=console, transient=True, auto_refresh=False)

    def __enter__(self) -> StatusLine:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    @property
    def shown(self) -> bool:
        """Whether anybody can see it."""
        return self._live is not None

    def show(self, line: str) -> None:
        """Replace the line."""
        if self._live is not None:
            self._live.update(Text(visible(line), no_wrap=True, overflow="ellipsis", style="cyan"), refresh=True)


def duration(seconds: float) -> str:
    """Seconds for people.

    Example:
        >>> duration(42.4), duration(125), duration(7290)
        ('42 s', '2 min 05 s', '2 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counted(n: int, noun: str) -> str:
    """A number of things.

    Example:
        >>> counted(1, "thread"), counted(4096, "byte")
        ('1 thread', '4,096 bytes')
    """
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def resume_command(directory: Path, device: str = "cpu") -> str:
    """What to type to go on with a run where it computes; its checkpoint does not tell where that is."""
    where = "" if device == "cpu" else f" --device {device}"
    return f"polychron train --resume --out {shlex.quote(str(directory))}{where}"


def warn(checkpoint: CheckpointReport) -> None:
    """Tell a person of a checkpoint that could not be written."""
    if checkpoint.problem is not None:
        print(f"warning: {visible(checkpoint.problem)}; training goes on", file=sys.stderr)


class TerminalView:
    """A run for a person: a status line on a terminal, a line now and then in a log, a summary at the end."""

    def __init__(self) -> None:
        self._console = make_console()
        self._status = StatusLine(self._console)
        self._logged_seconds = 0.0

    def __enter__(self) -> TerminalView:
        self._status.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.__exit__()

    def begin(self, facts: dict[str, Any]) -> None:
        """What is about to be trained on what."""
        highest = "up to " if facts["schedule"] == "reference" else ""
        rate = f"rate {highest}{facts['rate']:g}"
        left_out = f"{facts['drop']:.0%} of the tables left out, " if facts["drop"] else ""
        members = f"a readout of {facts['members']} members, " if facts["members"] > 1 else ""
        contexts = "contexts counted, " if facts["contexts"] else ""
        contexts += "recent ones remembered, " if facts["recent"] else ""
        contexts += f"the last {facts['beside']:.0%} beside these, " if facts["beside"] else ""
        rewired = f"rewired every {facts['rewire']} steps, " if facts["rewire"] else ""
        self._say("text", f"{facts['source']}, {facts['held_out_bytes']:,} of them held out")
        variant = (facts["hash"], facts["reading"], facts["gradient"])
        self._say(
            "model",
            f"{facts['model']} {facts['preset']}: {facts['parameters']:,} parameters, {facts['vocabulary']} tokens"
            + (f"; tables of {facts['tables']}" if facts["tables"] != "float32" else "")
            + variant_words(*variant),
        )
        device = facts.get("device", "cpu")
        where = counted(facts["threads"], "thread") if device == "cpu" else device
        self._say(
            "training",
            f"{facts['optimizer']}, {rate}, {facts['batch']} windows of {facts['length']} "
            f"bytes a step, {left_out}{members}{contexts}{rewired}seed {facts['seed']}, {where}",
        )
        if facts["from"]:
            only = {"added": ", the added tables only", "readout": ", the readout only", None: ""}[facts["only"]]
            self._say("from", f"{facts['from']}{only}")
        if facts["step"]:
            self._say("resumed", f"at step {facts['step']:,}, after {duration(facts['train_seconds'])} of training")
        self._logged_seconds = facts["train_seconds"]

    def show(self, event: Event) -> None:
        """Progress."""
        if isinstance(event, StepReport):
            line = (
                f"{event.progress:4.0%}  {event.bytes_per_second:,.0f} bytes/s  "
                f"training loss {event.nats_per_byte:.4f} nats/byte  {duration(event.seconds_left)} left"
            )
            self._status.show(line)
            if not self._status.shown and event.seconds - self._logged_seconds >= LOG_SECONDS:
                self._logged_seconds = event.seconds
                say(self._console, line)
        elif isinstance(event, ValidationReport):
            if event.final:
                self._status.show(f"validating: {event.score.n_bytes / event.of_bytes:.0%}")
            else:
                say(
                    self._console,
                    f"      step {event.step:,}: validation loss {_loss(event.score.nats_per_byte)} "
                    f"(on {event.score.n_bytes:,} bytes)",
                )
        elif isinstance(event, BesideReport):
            what = "counting; from here on tables learn what counts leave over"
            if not event.done:
                what = (
                    "counting took the time in which tables would have learnt what counts leave over: they learn alone"
                )
            say(self._console, f"      step {event.step:,}: {what}")
        elif isinstance(event, CheckpointReport):
            warn(event)

    def end(self, sample: str, result: dict[str, Any]) -> None:
        """A sample of what the model writes, and the figures."""
        self._status.__exit__()
        say(self._console, "\n" + sample + "\n")
        self._say(
            "trained",
            f"{result['train_bytes']:,} bytes in {duration(result['train_seconds'])} "
            f"({result['train_bytes_per_second']:,.0f} bytes/s)",
        )
        if result["train_nats_per_byte"] is not None:
            self._say("training loss", _loss(result["train_nats_per_byte"]))
        self._say(
            "validation loss",
            f"{_loss(result['val_nats_per_byte'])} (on all {result['val_bytes']:,} held-out bytes)",
        )
        self._say("checkpoint", result["checkpoint"])
        self._say("write more", f'polychron generate {shlex.quote(result["checkpoint"])} "Once "')

    def _say(self, title: str, line: str) -> None:
        say(self._console, f"{title:<16}{line}")


class JsonView:
    """A run for a program: every event is one JSON object on one line; the last is the result."""

    def __enter__(self) -> JsonView:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, facts: dict[str, Any]) -> None:
        """The run's settings."""
        print_json({"event": "start", **facts})

    def show(self, event: Event) -> None:
        """Progress."""
        if isinstance(event, StepReport):
            fields = {
                "event": "training",
                "step": event.step,
                "train_seconds": event.seconds,
                "train_bytes": event.n_bytes,
                "train_bytes_per_second": event.bytes_per_second,
                "train_nats_per_byte": event.nats_per_byte,
                "rate": event.rate,
                "progress": event.progress,
                "seconds_left": event.seconds_left,
            }
        elif isinstance(event, ValidationReport):
            if event.final:
                return  # the result has the figure
            fields = {
                "event": "validation",
                "step": event.step,
                "val_nats_per_byte": event.score.nats_per_byte,
                "val_bits_per_byte": event.score.bits_per_byte,
                "val_bytes": event.score.n_bytes,
            }
        elif isinstance(event, BesideReport):
            fields = {"event": "beside", "step": event.step, "done": event.done}
        elif isinstance(event, CheckpointReport):
            fields = {"event": "checkpoint", "step": event.step, "checkpoint": str(event.directory)}
            if event.problem is not None:
                fields = {"event": "warning", "step": event.step, "problem": event.problem}
        else:
            return
        print_json(fields)

    def end(self, sample: str, result: dict[str, Any]) -> None:
        """The sample, then the result."""
        print_json({"event": "sample", "text": sample})
        print_json({"event": "result", **result})


def _loss(nats_per_byte: float) -> str:
    return f"{nats_per_byte:.4f} nats/byte = {nats_per_byte / math.log(2):.4f} bits/byte"
