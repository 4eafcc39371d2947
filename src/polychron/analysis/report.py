"""A report on how a model's tables are used: one HTML file with its pictures in it, readable without a network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polychron.analysis.context_report import ContextsShown, context_section
from polychron.analysis.drawing import Axes, heat_map, spike_raster
from polychron.analysis.files import written_beside
from polychron.analysis.usage import CONSTANT_SHARE, CORRELATED, NEAR_TIES, TELLING_SHARE, U_EDGES, LayerUsage

_STYLE = """
:root { color-scheme: light dark; --surface: #fbfbf9; --panel: #ffffff; --ink: #1d1f23; --muted: #6a6f78;
  --rule: #e2e3de; --accent: #2f5fb3; --second: #c2571a; --weak: #b9bcc2; --stripe: #f1f1ed; }
@media (prefers-color-scheme: dark) { :root { --surface: #14161a; --panel: #1b1e23; --ink: #e8e8e4; --muted: #9aa0a9;
  --rule: #2e323a; --accent: #7fa6ee; --second: #f0935a; --weak: #565b65; --stripe: #20242a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 40px 24px 80px; background: var(--surface); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 4px; } h2 { font-size: 19px; margin: 44px 0 4px; }
p { margin: 4px 0 14px; max-width: 76ch; } .muted { color: var(--muted); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 12px 0; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: 5px 9px; text-align: right; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; color: var(--muted); } th:first-child, td:first-child { text-align: left; padding-left: 0; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(400px, 1fr)); gap: 14px; }
figure { margin: 0; padding: 12px 12px 8px; background: var(--panel); border: 1px solid var(--rule);
  border-radius: 8px; }
figure.wide { grid-column: 1 / -1; margin: 14px 0; }
figcaption { font-size: 13px; font-weight: 600; margin-bottom: 6px; }
figcaption span { font-weight: 400; color: var(--muted); }
svg { display: block; max-width: none; } figure > svg { width: 100%; height: auto; }
svg text { fill: var(--muted); font: 10px system-ui, sans-serif; } svg text.byte { fill: var(--ink);
  font: 11px ui-monospace, monospace; }
.grid { stroke: var(--rule); stroke-width: 1; fill: none; } .line { fill: none; stroke-width: 1.5; }
.line.bound { stroke: var(--second); stroke-dasharray: 4 3; } .dots { fill: none; stroke-linecap: round; }
.dots.good { stroke: var(--accent); stroke-opacity: .45; } .dots.bad { stroke: var(--second); }
rect.plain { fill: var(--accent); } rect.never { fill: var(--second); } rect.rarely { fill: var(--weak); }
rect.often { fill: var(--ink); } rect.stripe { fill: var(--stripe); }
.spikes { fill: none; stroke-width: 1.4; } .spikes.early { stroke: var(--accent); }
.spikes.late { stroke: var(--second); }
figure img { width: 100%; height: 120px; image-rendering: pixelated; display: block; }
.key { display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin: 0 4px 0 10px; }
"""

_HEAT = (72, 122, 214)
_MOST_DOTS = 3000


@dataclass(frozen=True)
class Raster:
    """Latencies to draw: ``latencies`` (T, n) of the positions or examples that ``labels`` name, and which neurons."""

    title: str
    latencies: np.ndarray
    labels: tuple[str, ...]
    neurons: tuple[int, ...]


def write_report(
    path: Path,
    title: str,
    facts: Sequence[str],
    usages: Sequence[LayerUsage],
    rasters: Sequence[Raster],
    contexts: ContextsShown | None = None,
) -> None:
    """Writes the report beside ``path`` and renames it.

    Args:
        path: of the HTML file.
        title: what was inspected.
        facts: lines about it.
        usages: of its layers.
        rasters: spikes to show.
        contexts: how its counted contexts are used, where it has some.

    Raises:
        InputError: the file cannot be written.
    """
    text = render_report(title, facts, usages, rasters, contexts)
    with written_beside(path) as scratch:
        scratch.write_text(text, encoding="utf-8", errors="backslashreplace")  # a folder's name may be no Unicode


def render_report(
    title: str,
    facts: Sequence[str],
    usages: Sequence[LayerUsage],
    rasters: Sequence[Raster],
    contexts: ContextsShown | None = None,
) -> str:
    """The report as HTML."""
    body = [f"<h1>{html.escape(title)}</h1>"]
    body += [f'<p class="muted">{"<br>".join(html.escape(fact) for fact in facts)}</p>']
    body += [_table(usages)]
    body += [
        "<p class='muted'>Rows: read never, rarely (less than half as often as if all rows of a table were read "
        "evenly), evenly, often (more than twice as often). Entropy: of the row that is read, mean over the tables, "
        "of the bits of its index. Comparisons: constant ones fall one way in less than "
        f"{CONSTANT_SHARE:.0%} of the readings; "
        f"doubled ones agree with another one of their table (correlation above {CORRELATED:g}); silent ones explain "
        f"less than {TELLING_SHARE:.0%} of the variance of the rows read.</p>"
    ]
    for raster in rasters:
        drawn = spike_raster(raster.latencies, raster.labels, raster.neurons, raster.title)
        body.append(
            f'<figure class="wide"><figcaption>{html.escape(raster.title)} <span><i class="key" '
            'style="background:var(--accent)"></i>in the first half of the window<i class="key" '
            'style="background:var(--second)"></i>in the second</span></figcaption>'
            f'<div class="scroll">{drawn}</div></figure>'
        )
    for usage in usages:
        body.append(_layer(usage))
    if contexts is not None:
        body.append(context_section(contexts))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _table(usages: Sequence[LayerUsage]) -> str:
    head = ("layer", "tables", "rows", "never", "rarely", "evenly", "often", "entropy", "|u| < 0.1", "constant",
            "doubled", "silent", "comparisons")  # fmt: skip
    lines = []
    for usage in usages:
        cells = (
            usage.name,
            f"{usage.n_tables:,}",
            f"{usage.n_rows:,}",
            *(f"{share:.1%}" for share in usage.visit_shares.values()),
            f"{usage.entropy.mean():.2f} of {len(usage.bits)}",
            f"{usage.near_ties(0.1):.1%}",
            f"{usage.n_constant:,}",
            f"{usage.n_correlated:,}",
            f"{usage.n_silent:,}",
            f"{usage.n_comparisons:,}",
        )
        lines.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    return (
        '<div class="scroll"><table><thead><tr>'
        + "".join(f"<th>{html.escape(name)}</th>" for name in head)
        + "</tr></thead><tbody>"
        + "".join(lines)
        + "</tbody></table></div>"
    )


def _layer(usage: LayerUsage) -> str:
    panels = (
        ("Rows by how often they are read", "1 = as if evenly", _visits_picture(usage)),
        ("Entropy of each table", "tables in ascending order", _entropy_picture(usage)),
        ("Comparisons by |u|", f"{usage.near_ties(NEAR_TIES[0]):.2%} below {NEAR_TIES[0]:g}", _u_picture(usage)),
        ("What each comparison tells", _telling_note(usage), _telling_picture(usage)),
    )
    figures = "".join(
        f"<figure><figcaption>{html.escape(title)} <span>{html.escape(note)}</span></figcaption>{picture}</figure>"
        for title, note, picture in panels
    )
    states = "" if usage.n_states is None else f", {usage.n_states:,} different states (rows of all tables together)"
    return (
        f"<h2>{html.escape(usage.name)}</h2><p class='muted'>{usage.n_tables:,} tables of {usage.n_rows:,} rows, "
        f"{usage.n_readings:,} readings of each table{states}.</p><div class='panels'>{figures}</div>"
        '<figure class="wide"><figcaption>Readings of every row <span>a line is a table, its rows from the most to the '
        f"least read; the deeper the colour the more, logarithmic</span></figcaption>{_heat_picture(usage)}</figure>"
    )


def _visits_picture(usage: LayerUsage) -> str:
    """Part of the rows by powers of two of the even share; the first bar is never."""
    relative = usage.relative_visits
    read = relative[relative > 0]
    low, high = -5, 5
    power = np.floor(np.log2(read) + 0.5).clip(low, high).astype(int)
    counts = np.bincount(power - low, minlength=high - low + 1) / relative.size
    never = usage.visit_shares["never"]
    top = float(max(never, counts.max()))
    axes = Axes((low - 2.5, high + 0.5), (0, _ceiling(top)), "readings over the even share", "rows")
    axes.y_ticks(_share_ticks(top))
    axes.bar(low - 2.5, low - 1.5, never, "never", f"never: {never:.2%}")
    names = {p: f"1/{2**-p}" if p < 0 else f"{2**p}" for p in range(low, high + 1)}
    names[low], names[high] = f"≤{names[low]}", f"≥{names[high]}"
    for power, share in zip(range(low, high + 1), counts, strict=True):
        style = "rarely" if power < -1 else "often" if power > 1 else "plain"
        axes.bar(power - 0.5, power + 0.5, share, style, f"{names[power]}: {share:.2%}")
    axes.x_ticks([(low - 2, "never"), *((p, names[p]) for p in range(low, high + 1, 2))])
    return axes.svg("rows by how often they are read")


def _entropy_picture(usage: LayerUsage) -> str:
    n_bits, possible = len(usage.bits), usage.possible_entropy
    entropy = np.sort(usage.entropy)
    axes = Axes((0, max(1, len(entropy) - 1)), (0, n_bits * 1.05), "table", "bits")
    axes.y_ticks([(bits, f"{bits}") for bits in range(0, n_bits + 1, max(1, n_bits // 5))])
    axes.line([(0, possible), (max(1, len(entropy) - 1), possible)], "bound")
    axes.dots(list(enumerate(entropy.tolist())), "good")
    axes.x_ticks([(0, "1"), (max(1, len(entropy) - 1), f"{len(entropy):,}")])
    return axes.svg("entropy of each table")


def _u_picture(usage: LayerUsage) -> str:
    shares = usage.u_counts / max(1, usage.u_counts.sum())
    top = float(shares.max())
    edges = np.log10(U_EDGES)
    width = edges[1] - edges[0]
    axes = Axes((edges[0] - width, edges[-1] + width), (0, _ceiling(top)), "|u|, in units of latency", "comparisons")
    axes.y_ticks(_share_ticks(top))
    for k, share in enumerate(shares):
        left = edges[0] + (k - 1) * width
        axes.bar(
            left, left + width, share, "never" if k == 0 else "plain", f"up to {10 ** (left + width):.3g}: {share:.2%}"
        )
    axes.x_ticks([(p, f"{10.0**p:g}") for p in range(int(edges[0]), int(edges[-1]) + 1)])
    return axes.svg("comparisons by the size of u")


def _telling_note(usage: LayerUsage) -> str:
    return f"{usage.n_constant:,} constant, {usage.n_correlated:,} doubled, {usage.n_silent:,} silent"


def _telling_picture(usage: LayerUsage) -> str:
    minority, explained = usage.minority.ravel(), usage.explained.ravel()
    if len(minority) > _MOST_DOTS:
        chosen = np.linspace(0, len(minority) - 1, _MOST_DOTS).astype(int)
        minority, explained = minority[chosen], explained[chosen]
    bad = (minority < CONSTANT_SHARE) | (explained < TELLING_SHARE)
    top = float(explained.max())
    axes = Axes((0, 0.5), (0, _ceiling(top)), "part of the readings in which it falls the rarer way", "variance told")
    axes.y_ticks(_share_ticks(top))
    for style, chosen in (("good", ~bad), ("bad", bad)):
        axes.dots(list(zip(minority[chosen].tolist(), explained[chosen].tolist(), strict=True)), style, 1.6)
    axes.x_ticks([(x / 10, f"{x / 10:g}") for x in range(6)])
    return axes.svg("comparisons by how evenly they split and what they tell")


def _heat_picture(usage: LayerUsage) -> str:
    order = -np.sort(-usage.relative_visits, axis=1)
    columns = np.linspace(0, order.shape[1] - 1, min(512, order.shape[1])).astype(int)
    tables = np.linspace(0, order.shape[0] - 1, min(128, order.shape[0])).astype(int)
    shown = order[np.argsort(usage.entropy)[tables]][:, columns]
    deepest = np.log1p(shown.max()) or 1.0
    return heat_map(np.log1p(shown) / deepest, _HEAT)


def _ceiling(top: float) -> float:
    return max(1e-3, 1.08 * top)


def _share_ticks(top: float) -> list[tuple[float, str]]:
    """Three or four round parts between 0 and the top."""
    step = 10.0 ** np.floor(np.log10(max(top, 1e-3)))
    step = next(s for s in (step / 5, step / 2, step, 2 * step, 5 * step) if top / s <= 4)
    return [(k * step, f"{100 * k * step:.3g}%") for k in range(int(top / step) + 1)]
