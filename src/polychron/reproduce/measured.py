"""Items that are measured: learning speed (figure 13), bits per character, the ablation without FFN."""

# B window, T position

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polychron import analysis, models
from polychron.analysis.plots import saved_figure
from polychron.reproduce.outcome import CONFIRMED, NOT_CONFIRMED, OTHER_SCALE, Finding, Reproduction
from polychron.twins import ATTENTION_ONLY, PUBLISHED, RECIPES
from polychron.twins.contest import Contestant, Once, Outcome, Terms, run_contest, spread
from polychron.twins.cost import FLOAT
from polychron.twins.learning import Learner, of_tables, of_twin
from polychron.twins.split import Split
from polychron.twins.training import Settings

LOOKS = (0.02, 0.04, 0.08, 0.15, 0.3, 0.6)
PUBLISHED_SPEED = 50
PUBLISHED_TRAFFIC = 10_000
# Bits per character that the paper's Table II claims for its recurrent network (5M) and its transformer (806M), and
# those of others that it sets beside them, all of 2016.
PUBLISHED_BITS = {"recurrent": 1.39, "transformer": 0.99}
PUBLISHED_BESIDE = {"MI-LSTM (17M)": 1.44, "mLSTM (10M)": 1.40, "BN LSTM (16M)": 1.36, "HM-LSTM (35M)": 1.32}
NOTHING_LOST = 0.01  # nats: what leaving the FFN out may cost and still be nothing
EQUAL_TIME = ", equal time"
STEP_BYTES = 1024  # of ours: short runs need steps more than large ones
DENSE = {**RECIPES, ATTENTION_ONLY.name: ATTENTION_ONLY, PUBLISHED.name: PUBLISHED}
ABLATION = {"n_neurons": 16, "n_heads": 1, "n_layers": 2, "n_tables": 16, "n_comparisons": 4, "window": 8}
# Published of the ablation are n = 16 and one head; n_t, n_c and p are those of Table IV's layer, which is of the same
# n and has one head, too.
PUBLISHED_ABLATION = {"n_neurons": 16, "n_heads": 1, "n_layers": 6, "n_tables": 10, "n_comparisons": 6,
                      "n_position_bits": 4, "window": 32}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How much is trained and which presets stand for the paper's settings.

    Attributes:
        n_bytes: trained on in every run.
        trial_bytes: for each rate that is tried; a short trial recommends a higher rate than a whole run wants.
        sample_bytes: of the held-out tail that are scored; those of spread places.
        delay: preset of the delay network.
        transformer: preset of the table transformer.
        recurrent: preset of the recurrent network.
        twins: dense networks, by their names in `DENSE`.
        ablation: what differs from the transformer's preset where the FFN is left out.
        is_published: whether transformer, recurrent and ablation are of the published sizes.
    """

    n_bytes: int
    trial_bytes: int
    sample_bytes: int
    delay: str
    transformer: str
    recurrent: str
    twins: tuple[str, ...]
    ablation: Mapping[str, int]
    is_published: bool


SIZES = {
    "small": Size(1 << 18, 1 << 18, 1 << 14, "tiny", "paper-small", "small",
                  ("transformer-small", "gru", "window-mlp"), ABLATION, False),
    "full": Size(20 << 20, 2 << 20, 1 << 18, "small", "paper", "paper",
                 (*RECIPES, PUBLISHED.name), PUBLISHED_ABLATION, True),
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What a measured item is given.

    Attributes:
        split: the text.
        size: how much.
        seeds: of every contestant.
        setting: for the report.
        tell: takes a line of progress.
        once: keeps trials and runs, see :func:`polychron.twins.contest.run_contest`.
    """

    split: Split
    size: Size
    seeds: tuple[int, ...]
    setting: dict[str, Any]
    tell: Callable[[str], None]
    once: Once = lambda name, make: make()

    def contest(self, contestants: Sequence[Contestant], seconds: float | None = None) -> list[Outcome]:
        """Each of them under every seed, on the size's terms; or for so many seconds, at the first of its rates."""
        size = self.size
        terms = Terms(n_bytes=size.n_bytes, trial_bytes=size.trial_bytes, sample_bytes=size.sample_bytes, looks=LOOKS)
        if seconds is not None:
            terms = replace(terms, n_bytes=None, seconds=seconds, trial_bytes=0)
        return run_contest(contestants, self.split, terms, self.seeds, once=self.once, tell=self.tell)


def tables(kind: str, preset: str, **changes: Any) -> Contestant:
    """A network of tables as ``polychron train`` trains it, at half, once and twice its preset's rate."""
    training = models.training_defaults(kind, preset)

    def make(split: Split, rate: float, seed: int) -> Learner:
        config = models.preset(kind, preset, split.vocabulary.size)
        if changes:
            config = type(config)(**{**asdict(config), **changes})
        return of_tables(config, split, seed, rate=rate, batch=max(1, STEP_BYTES // training.length),
                         length=training.length, visit_cap=training.visit_cap)  # fmt: skip

    return Contestant(f"{kind} {preset}", make, tuple(training.rate * factor for factor in (1.0, 0.5, 2.0)))


def twin(name: str) -> Contestant:
    """A dense twin at half, once and twice the rate of its recipe."""
    recipe = DENSE[name]
    return Contestant(
        name, lambda split, rate, seed: of_twin(recipe, Settings(rate), split, seed),
        tuple(recipe.rate * factor for factor in (1.0, 0.5, 2.0)),
    )  # fmt: skip


def fig13(work: Work) -> Reproduction:
    """Loss over steps, bytes and seconds; how much less ours takes to where the best dense twin ends.

    Bytes and steps are those of runs over as many bytes as the twins'; seconds those of these or of further runs, as
    long as the best twin's, whichever get there sooner.
    """
    size = work.size
    ours = [tables("delay", size.delay), tables("transformer", size.transformer)]
    twins = [twin(name) for name in size.twins]
    outcomes = work.contest([*ours, *twins])
    dense = {name: [o for o in outcomes if o.name == name] for name in size.twins}
    ends = {name: statistics.mean(o.nats for o in runs) for name, runs in dense.items()}
    best = min(ends, key=ends.__getitem__)
    # The paper compares with a transformer, whatever else does better; where its own is there, with that one.
    transformers = sorted(filter(_is_transformer, ends), key=ends.__getitem__)
    rivals = dict.fromkeys([best, *transformers[:1], *(name for name in transformers if name == PUBLISHED.name)])
    seconds = statistics.mean(outcome.points[-1][2] for outcome in dense[best])
    outcomes += work.contest([replace(c, name=c.name + EQUAL_TIME) for c in ours], seconds)
    findings, measured = [], {"outcomes": [asdict(outcome) for outcome in outcomes], "best_twin": best}
    for contestant in ours:
        for rival in rivals:
            for axis, what in ((1, "bytes"), (0, "steps"), (2, "seconds")):
                equal_bytes = [o for o in outcomes if o.name == contestant.name]
                equal_time = [o for o in outcomes if o.name == contestant.name + EQUAL_TIME]
                runs, budget = equal_bytes, f"{size.n_bytes:,} bytes"
                factors = [times_less(o, _of_seed(dense[rival], o.seed), axis) for o in equal_bytes]
                if axis == 2:  # whichever of the two gets there sooner
                    runs, budget = equal_time, f"{seconds:.3g} s"
                    longer = [times_less(o, _of_seed(dense[rival], o.seed), axis) for o in equal_time]
                    factors = [max(pair) for pair in zip(factors, longer, strict=True)]
                measured[f"{contestant.name}: times fewer {what} than {rival}"] = factors
                note = beside(rival)
                if what != "steps":
                    note += f"; ends at {spread([o.nats for o in runs])} nats after {budget}, the twin at "
                    note += spread([o.nats for o in dense[rival]])
                claim = f"{contestant.name}: learning 50 times faster than {rival}, in {what}"
                verdict = judged(min(factors) >= PUBLISHED_SPEED, contestant.name, rival)
                findings.append(Finding(claim, "50", times(factors), verdict, note))
    for rival in dict.fromkeys([best, *(name for name in rivals if name == PUBLISHED.name)]):
        findings += traffic(work.split, size, rival)
    return Reproduction("fig13", "learning speed beside tuned dense twins (figure 13)", tuple(findings), work.setting,
                        measured, lambda path: draw_curves(path, outcomes, work.split.name))  # fmt: skip


def judged(is_reached: bool, ours: str, rival: str) -> str:
    """The verdict on a figure that the paper has of its own transformer beside a dense one of its own choice.

    Example:
        >>> judged(True, "transformer paper", "gru"), judged(True, "transformer paper", "transformer-published")
        ('confirmed at another scale', 'confirmed')
    """
    if not is_reached:
        return NOT_CONFIRMED
    return CONFIRMED if ours == "transformer paper" and rival == PUBLISHED.name else OTHER_SCALE


def beside(rival: str) -> str:
    """What a verdict's opponent is.

    Example:
        >>> beside("gru")
        'opponent gru: 256 units, not the published transformer'
    """
    which = "of the published sizes" if rival == PUBLISHED.name else "not the published transformer"
    return f"opponent {rival}: {DENSE[rival].sizes}, {which}"


def _of_seed(runs: Sequence[Outcome], seed: int) -> Outcome:
    return next(run for run in runs if run.seed == seed)


def _is_transformer(name: str) -> bool:
    return name.startswith("transformer")


def times_less(ours: Outcome, dense: Outcome, axis: int) -> float:
    """How many times less ours took to the loss that the dense twin ends with; 0 where it did not get there.

    Between two looks the logarithm of what was spent is taken to fall on a straight line over the loss; a loss below
    the first look's counts as reached at that look.

    Args:
        ours: a run.
        dense: the twin's run.
        axis: of a point: 0 steps, 1 bytes, 2 seconds.
    """
    target, spent = dense.nats, dense.points[-1][axis]
    before = None
    for point in ours.points:
        if point[3] <= target:
            at = math.log(point[axis])
            if before is not None and before[3] > target:
                part = (before[3] - target) / (before[3] - point[3])
                at = math.log(before[axis]) + part * (at - math.log(before[axis]))
            return spent / math.exp(at)
        before = point
    return 0.0


def times(factors: Sequence[float]) -> str:
    """Factors for people.

    Example:
        >>> times([2.0, 3.0]), times([0.0, 0.0]), times([0.0, 2.0])
        ('2.5 times (2 to 3)', 'does not get there', 'gets there under 1 of 2 seeds')
    """
    reached = [factor for factor in factors if factor > 0]
    if not reached:
        return "does not get there"
    if len(reached) < len(factors):
        return f"gets there under {len(reached)} of {len(factors)} seeds"
    if len(factors) == 1:
        return f"{factors[0]:.3g} times (one seed)"
    return f"{statistics.mean(factors):.3g} times ({min(factors):.3g} to {max(factors):.3g})"


def traffic(split: Split, size: Size, rival: str) -> list[Finding]:
    """Bytes and operations for the next byte of a text: a dense twin's beside the tables'."""
    recipe = DENSE[rival]
    with torch.no_grad():
        reading = recipe.build(split.vocabulary.size, 0.0).reading_cost()
    findings = []
    for kind, preset in (("delay", size.delay), ("transformer", size.transformer)):
        cost = analysis.count_cost(models.preset(kind, preset, split.vocabulary.size))
        touched = cost.row_bytes(FLOAT) + cost.latency_bytes(FLOAT)
        operations = cost.comparisons + cost.additions
        for what, ours, dense in (
            ("bytes touched", touched, reading.bytes),
            ("operations", operations, reading.operations),
        ):
            ratio = dense / ours
            findings.append(
                Finding(f"{kind} {preset}: 10,000 times fewer {what} a byte than {rival}", f"{PUBLISHED_TRAFFIC:,}",
                        f"{ratio:.3g} times", judged(ratio >= PUBLISHED_TRAFFIC, f"{kind} {preset}", rival),
                        f"{beside(rival)}; {dense:,.0f} of it / {ours:,.0f}, rows counted")
            )  # fmt: skip
    return findings


def table2(work: Work) -> Reproduction:
    """Bits per character of the recurrent network and the transformer: all positions, and the last of a window."""
    findings, outcomes = [], []
    measured: dict[str, Any] = {"published": {**PUBLISHED_BITS, **PUBLISHED_BESIDE}}
    others = ", ".join(f"{name} {published:.2f}" for name, published in PUBLISHED_BESIDE.items())
    for kind, claimed in PUBLISHED_BITS.items():
        preset = getattr(work.size, kind)
        runs = work.contest([replace(tables(kind, preset), at_end=last_positions)])
        outcomes += runs
        last = [run.further["last_position"] for run in runs]
        for where, nats in (("all positions", [run.nats for run in runs]), ("last position of a window", last)):
            found = [value / math.log(2) for value in nats]
            verdict = NOT_CONFIRMED
            if max(found) <= claimed:
                verdict = CONFIRMED if work.size.is_published else OTHER_SCALE
            measured[f"{kind} {preset}, {where}"] = found
            note = f"published beside it, of 2016: {others}" if kind == "recurrent" else ""
            if where.startswith("last"):
                note = "the paper scored the last position only, on another corpus"
            findings.append(
                Finding(f"bits per character, {kind} {preset}, {where}", f"{claimed}", spread(found), verdict, note)
            )
    measured["outcomes"] = [asdict(outcome) for outcome in outcomes]
    claims = {f"published, {kind}: {claimed} bits": claimed * math.log(2) for kind, claimed in PUBLISHED_BITS.items()}
    return Reproduction("table2", "bits per character (Table II)", tuple(findings), work.setting, measured,
                        lambda path: draw_curves(path, outcomes, work.split.name, claims))  # fmt: skip


def last_positions(learner: Learner, held_out: np.ndarray) -> dict[str, float]:
    """What a trained network has at the last position of windows."""
    return {"last_position": last_position(learner.network, held_out)}


def last_position(model: models.LanguageModel, held_out: np.ndarray) -> float:
    """Mean nats of the byte after each of the windows that the held-out ids (N,) are cut into: the paper's measure."""
    tokens = torch.from_numpy(held_out.astype("int64"))
    context = model.config.context
    n_windows = (len(tokens) - 1) // context
    windows = torch.arange(n_windows)[:, None] * context + torch.arange(context + 1)
    model.eval()
    nats = [
        model.nats(tokens[some][:, :-1].contiguous(), tokens[some][:, 1:].contiguous())[:, -1]
        for some in windows.split(64)
    ]
    return torch.cat(nats).mean().item()


def ablation(work: Work) -> Reproduction:
    """Attention only, n = 16 and one head, beside the same with FFN; and a small dense transformer with and without."""
    size = work.size
    changes = dict(size.ablation, context=32)
    ours = [
        Contestant(name, tables("transformer", size.transformer, **changes, ffn=ffn).make, (0.02, 0.01, 0.04))
        for name, ffn in (("attention only", None), ("with FFN", "tables"))
    ]
    twins = [twin(ATTENTION_ONLY.name), twin("transformer-small")]
    outcomes = work.contest([*ours, *twins])
    runs = [[o for o in outcomes if o.name == contestant.name] for contestant in (*ours, *twins)]
    alone, whole, dense_alone, dense_whole = ([o.nats for o in some] for some in runs)
    lost = [a - w for a, w in zip(alone, whole, strict=True)]
    dense_lost = [a - w for a, w in zip(dense_alone, dense_whole, strict=True)]
    without_loss = CONFIRMED if size.is_published else OTHER_SCALE
    findings = [
        Finding(
            "without FFN nothing is lost: tables are not linear already",
            "(in words; n = 16, one head)",
            f"{spread(alone)} nats without, {spread(whole)} with",
            without_loss if max(lost) <= NOTHING_LOST else NOT_CONFIRMED,
            f"difference {spread(lost)} nats; nothing means at most {NOTHING_LOST}; {changes['n_layers']} layers, "
            f"{changes['n_tables']} tables of {changes['n_comparisons']} comparisons, window {changes['window']}",
        ),
        Finding(
            "a dense transformer loses by leaving out its perceptron",
            "(implied)",
            f"{spread(dense_alone)} nats without, {spread(dense_whole)} with",
            OTHER_SCALE if min(dense_lost) > NOTHING_LOST else NOT_CONFIRMED,
            f"difference {spread(dense_lost)} nats; {ATTENTION_ONLY.name} beside transformer-small",
        ),
    ]
    measured: dict[str, Any] = {"outcomes": [asdict(outcome) for outcome in outcomes]}
    for axis, what in ((1, "bytes"), (2, "seconds")):
        factors = [times_less(o, d, axis) for o, d in zip(runs[0], runs[2], strict=True)]
        measured[f"attention only beside dense attention only: times fewer {what}"] = factors
        findings.append(
            Finding(f"attention only, tables beside dense: learning 50 times faster, in {what}", f"{PUBLISHED_SPEED}",
                    times(factors), OTHER_SCALE if min(factors) >= PUBLISHED_SPEED else NOT_CONFIRMED,
                    f"until the loss that the dense one ends with, {spread(dense_alone)}")
        )  # fmt: skip
    return Reproduction("ablation", "attention only", tuple(findings), work.setting, measured,
                        lambda path: draw_curves(path, outcomes, work.split.name))  # fmt: skip


def draw_curves(path: Path, outcomes: Sequence[Outcome], text: str, claims: Mapping[str, float] | None = None) -> None:
    """Loss over steps, bytes and seconds: a line for each contestant, mean of the seeds, a band from best to worst.

    ``claims`` are published losses in nats, by their labels: level lines.
    """
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    colours = ("#D55E00", "#E69F00", "#0072B2", "#56B4E9", "#009E73", "#CC79A7", "#6A4C93")
    names = list(dict.fromkeys(outcome.name for outcome in outcomes))
    with saved_figure(path, width=10.5, height=4.2) as figure:
        panels = figure.subplots(1, 3, sharey=True)
        for axes, (axis, title) in zip(panels, ((0, "steps"), (1, "bytes"), (2, "processor time")), strict=True):
            for name, colour in zip(names, colours * 9, strict=False):
                runs = [o for o in outcomes if o.name == name]
                looks = list(zip(*(o.points for o in runs), strict=False))
                spent = [statistics.mean(point[axis] for point in look) for look in looks]
                nats = [[point[3] for point in look] for look in looks]
                mean = [statistics.mean(some) for some in nats]
                width = 1.3 if name in DENSE else 2.2
                axes.plot(spent, mean, "o-", color=colour, label=name, markersize=3, linewidth=width)
                axes.fill_between(spent, [min(some) for some in nats], [max(some) for some in nats], color=colour,
                                  alpha=0.18, linewidth=0)  # fmt: skip
            for (label, nats), style in zip((claims or {}).items(), ("--", ":", "-.") * 9, strict=False):
                axes.axhline(nats, color="#555555", linestyle=style, linewidth=1.0, label=label)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1,) if axis == 2 else (1, 3)))  # "300 ms" is long
            axes.xaxis.set_major_formatter(EngFormatter("s" if axis == 2 else "", sep=""))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(title)
            axes.grid(color="#E6E6E6", linewidth=0.7)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("held-out nats per byte")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(4, len(names)),
                      frameon=False)  # fmt: skip
        figure.suptitle(f"Learning {text}", x=0.01, ha="left", fontsize=11)
