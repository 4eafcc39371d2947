"""What is to be run, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.results import OURS, OWN


@dataclass(frozen=True)
class Plan:
    """A benchmark.

    Attributes:
        text: file or folder.
        budgets: seconds of training that every contestant gets.
        our_budgets: further ones that only ours gets, for the time to equal loss.
        seeds: of every budget.
        twin_seeds: those of them that the twins run too.
        threads: of every contestant.
        models: contestants, in the order of a round.
        trial_part: part of a budget that each trial before it gets.
        ppmd_orders: longest contexts of PPMd, in bytes.
        kneser_ney_orders: n of the n-grams.
    """

    text: Path
    budgets: tuple[float, ...]
    our_budgets: tuple[float, ...]
    seeds: tuple[int, ...]
    twin_seeds: tuple[int, ...]
    threads: int
    models: tuple[str, ...]
    trial_part: float
    ppmd_orders: tuple[int, ...]
    kneser_ney_orders: tuple[int, ...]

    def runs(self, references: tuple[str, ...]) -> Iterator[tuple[str, float, int]]:
        """(model, budget, seed), short budgets first; a seed is a round through all models: A B A B.

        So what changes on a machine in the course of hours meets all contestants of a budget alike.
        """
        for budget in sorted({*self.budgets, *(self.our_budgets if OURS in self.models else ())}):
            for seed in self.seeds:
                for model in self.models:
                    seeds = self.seeds if model in OWN else self.twin_seeds
                    is_asked = budget in self.budgets and seed in seeds and model not in references
                    if model == OURS or is_asked:
                        yield model, budget, seed


def run_name(model: str, budget: float, seed: int) -> str:
    """A run's file, without its ending."""
    return f"{model}-{budget:g}s-seed{seed}"


def tuning_name(model: str, budget: float) -> str:
    """The file of what was chosen for a twin and budget, without its ending."""
    return f"{model}-{budget:g}s"
