"""The part of a report that shows how a model's counted contexts are used."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polychron.analysis.context_usage import ContextUsage
from polychron.analysis.drawing import Axes
from polychron.analysis.recent_usage import RUNS, RecentUsage, percent

_WIDE = 1040


@dataclass(frozen=True)
class ContextsShown:
    """What the report shows of counted contexts.

    Attributes:
        usages: of each kind, on the text that was read.
        shown: of each kind, on the text whose spikes are drawn.
        labels: of that text's bytes.
        recent: of recent tables, on the text that was read; None where the model has none.
    """

    usages: Sequence[ContextUsage]
    shown: Sequence[ContextUsage]
    labels: tuple[str, ...]
    recent: RecentUsage | None = None


def context_section(contexts: ContextsShown) -> str:
    """Of each kind a heading, a table by depth, and pictures; then what recent tables knew."""
    kinds = zip(contexts.usages, contexts.shown, strict=True)
    sections = [_section(usage, shown, contexts.labels) for usage, shown in kinds]
    return "".join(sections) + ("" if contexts.recent is None else _recent_section(contexts.recent))


def _section(usage: ContextUsage, shown: ContextUsage, labels: Sequence[str]) -> str:
    panels = (
        ("How deep the text's contexts were met", "bytes of the longest one", _ends_picture(usage)),
        ("What the next byte costs there", "nats, the whole model", _nats_picture(usage)),
    )
    figures = "".join(
        f"<figure><figcaption>{html.escape(title)} <span>{html.escape(note)}</span></figcaption>{picture}</figure>"
        for title, note, picture in panels
    )
    positions = len(usage.depth)
    about = (
        f"{int(usage.n_contexts.sum()):,} contexts of up to {usage.deepest} bytes, {int(usage.n_entries.sum()):,} "
        f"numbers. At each of {positions:,} positions the rows of the empty context and of ever longer ones are added, "
        "as long as the context was met when they were counted"
    )
    if positions:
        about += f": {usage.depth.mean():.2f} bytes deep in the mean, {usage.n_added.mean():.1f} numbers"
    return (
        f"<h2>counted contexts: {usage.kind}</h2><p class='muted'>{html.escape(about)}.</p>{_table(usage)}"
        f"<div class='panels'>{figures}</div>"
        '<figure class="wide"><figcaption>How deep the contexts before each byte were met</figcaption>'
        f'<div class="scroll">{_text_picture(shown.depth, labels)}</div></figure>'
    )


def _table(usage: ContextUsage) -> str:
    head = ("bytes", "the deepest is of the", "contexts", "numbers", "contexts read", "walks that come here",
            "that end here", "nats a byte there")  # fmt: skip
    n = max(1, len(usage.depth))
    rows = [
        (
            f"{k}", usage.parts[k], f"{usage.n_contexts[k]:,}", f"{usage.n_entries[k]:,}", f"{usage.n_read[k]:,}",
            f"{usage.arrivals[k] / n:.1%}", f"{usage.ends[k] / n:.1%}", "" if nats is None else f"{nats:.3f}",
        )
        for k, nats in enumerate(usage.nats_by_depth)
    ]  # fmt: skip
    return _html_table(head, rows)


def _recent_section(usage: RecentUsage) -> str:
    head = ("table", "met", "latest is right", "the one before is", *(f"latest, run of {run}" for run in RUNS))
    of_tables = zip(usage.names, usage.met, usage.right(0), usage.right(1), strict=True)
    rows = [
        (name, *map(percent, (met, latest, before, *usage.right_by_run(i))))
        for i, (name, met, latest, before) in enumerate(of_tables)
    ]
    about = (
        f"Of {usage.n_positions:,} positions, the part at which a table knew the context from earlier in this text; "
        "of these, how often the symbol that had followed it last, or the one before, followed again, and how that "
        "depends on how many times in a row it had"
    )
    return f"<h2>recent tables</h2><p class='muted'>{html.escape(about)}.</p>{_html_table(head, rows)}"


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _ends_picture(usage: ContextUsage) -> str:
    shares = usage.ends / max(1, len(usage.depth))
    top = float(shares.max())
    axes = Axes((-0.5, usage.deepest + 0.5), (0, 1.08 * top or 1), "bytes", "positions")
    step = 0.2 if top > 0.5 else 0.1 if top > 0.25 else 0.05
    axes.y_ticks([(k * step, f"{100 * k * step:.0f}%") for k in range(int(top / step) + 1)])
    for k, share in enumerate(shares.tolist()):
        axes.bar(k - 0.5, k + 0.5, share, "plain", f"{k} bytes: {share:.2%}")
    axes.x_ticks([(k, f"{k}") for k in range(usage.deepest + 1)])
    return axes.svg("positions by the longest context that was met")


def _nats_picture(usage: ContextUsage) -> str:
    found = [(k, nats) for k, nats in enumerate(usage.nats_by_depth) if nats is not None]
    top = max((nats for _, nats in found), default=1.0)
    axes = Axes((-0.5, usage.deepest + 0.5), (0, 1.08 * top or 1), "bytes", "nats a byte")
    step = max(1, round(top / 4))
    axes.y_ticks([(nats, f"{nats}") for nats in range(0, int(top) + 1, step)])
    for k, nats in found:
        axes.bar(k - 0.5, k + 0.5, nats, "plain", f"{k} bytes: {nats:.3f} nats")
    axes.x_ticks([(k, f"{k}") for k in range(usage.deepest + 1)])
    return axes.svg("nats a byte by the longest context that was met")


def _text_picture(depth: np.ndarray, labels: Sequence[str]) -> str:
    """A bar for each byte but the first, whose context is empty."""
    n = len(depth)
    deepest = max(1, int(depth.max())) if n else 1
    axes = Axes((-0.5, max(n, 1) - 0.5), (0, 1.05 * deepest), "the byte that is predicted", "bytes", width=_WIDE)
    axes.y_ticks([(k, f"{k}") for k in range(deepest + 1)])
    for t, (k, label) in enumerate(zip(depth.tolist(), labels[1:], strict=True)):
        axes.bar(t - 0.5, t + 0.5, k, "plain", f"{label}: {k} bytes")
    axes.x_ticks([(t, label) for t, label in enumerate(labels[1:])])
    return axes.svg("how deep the contexts before each byte were met")
