"""What a reproduction comes to: claims, figures, verdicts; as Markdown and as plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONFIRMED = "confirmed"
OTHER_SCALE = "confirmed at another scale"
NOT_CONFIRMED = "not confirmed"
VERDICTS = (CONFIRMED, OTHER_SCALE, NOT_CONFIRMED)


@dataclass(frozen=True)
class Finding:
    """One claim, and what came of it.

    Attributes:
        claim: in words.
        published: the paper's figure, as text.
        ours: ours, with spread over seeds where it was measured.
        verdict: one of `VERDICTS`.
        note: what the verdict rests on.
    """

    claim: str
    published: str
    ours: str
    verdict: str
    note: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict must be one of {', '.join(VERDICTS)}; got {self.verdict!r}")


@dataclass(frozen=True)
class Reproduction:
    """An item of the paper.

    Attributes:
        item: its name on the command line.
        title: what it is.
        findings: claim by claim.
        setting: text, bytes, seeds, versions: what a reader needs to do it again.
        measured: plain values behind the findings.
        draw: writes the picture to a path; None: there is none.
    """

    item: str
    title: str
    findings: tuple[Finding, ...]
    setting: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    draw: Callable[[Path], None] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "item": self.item,
            "title": self.title,
            "findings": [vars(finding) for finding in self.findings],
            "setting": self.setting,
            "measured": self.measured,
        }

    def markdown(self) -> str:
        """A table of the findings, and the setting below it."""
        lines = [f"# {self.item}: {self.title}", "", "| claim | published | ours | verdict |", "|---|---|---|---|"]
        lines += [f"| {f.claim} | {f.published} | {f.ours} | **{f.verdict}** |" for f in self.findings]
        notes = [f"- {finding.claim}: {finding.note}" for finding in self.findings if finding.note]
        setting = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.setting.items())
        return "\n".join([*lines, "", *notes, *([""] if notes else []), *([f"Setting: {setting}."] if setting else [])])
