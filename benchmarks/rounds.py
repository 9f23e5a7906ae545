"""Rounds, ratios, and how they are printed: the same for every benchmark.

In a round the subjects take turns, so that a machine whose speed drifts does not matter, in another
order each time, since each finds the caches as the one before left them. A ratio is taken within a
round; what is printed of it is the median of the rounds, and the lowest and the highest.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from attrs import frozen

__all__ = ["ROUNDS", "Figure", "Limit", "Round", "in_rounds", "medians_in_turn", "ratio", "report"]

ROUNDS = 3

Round = Mapping[str, float]
"""What one round measured of each subject."""

_random = random.Random(1)  # noqa: S311


@frozen
class Limit:
    """How far a ratio may go.

    Attributes:
        value: The last ratio that keeps it.
        at_least: Whether it bounds from below; otherwise it bounds from above.
        proposed: Whether nobody demands it yet: it is printed, and does not count.
    """

    value: float
    at_least: bool = False
    proposed: bool = False

    def is_met_by(self, value: float) -> bool:
        """Say whether a ratio keeps it."""
        return value >= self.value if self.at_least else value <= self.value

    def __str__(self) -> str:
        return (
            f"{'proposed ' if self.proposed else ''}limit: "
            f"{'at least' if self.at_least else 'at most'} {self.value:g}"
        )


@frozen
class Figure:
    """One figure of the result, a ratio unless its name says otherwise.

    Attributes:
        name: What is divided by what.
        values: One for each round.
        limit: What its median has to keep, or None.
    """

    name: str
    values: Sequence[float]
    limit: Limit | None = None

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.values)

    @property
    def kept(self) -> bool:
        """Whether the median keeps the limit that is demanded, if there is one."""
        return self.limit is None or self.limit.proposed or self.limit.is_met_by(self.median)

    def __str__(self) -> str:
        figure = f"{self.name}: {self.median:.2f} ({min(self.values):.2f}..{max(self.values):.2f})"
        if self.limit is None:
            return figure
        return (
            f"{figure}, {self.limit}, {'kept' if self.limit.is_met_by(self.median) else 'NOT KEPT'}"
        )


def medians_in_turn(subjects: Mapping[str, Callable[[], float]], turns: int = 1) -> Round:
    """Run subjects in turn, and return the median of what each measured.

    Args:
        subjects: Each does its work once and returns what it measured.
        turns: How often each has its turn.
    """
    measured: dict[str, list[float]] = {name: [] for name in subjects}
    order = list(subjects)
    for _ in range(turns):
        _random.shuffle(order)
        for name in order:
            measured[name].append(subjects[name]())
    return {name: statistics.median(values) for name, values in measured.items()}


def in_rounds(measure: Callable[[], Round]) -> list[Round]:
    """Measure in each round."""
    return [measure() for _ in range(ROUNDS)]


def ratio(
    rounds: Iterable[Round], subject: str, reference: str, limit: Limit | None = None
) -> Figure:
    """Divide one subject by another, round by round."""
    values = [each[subject] / each[reference] for each in rounds]
    return Figure(f"{subject} / {reference}", values, limit)


def report(what: str | None, figures: Iterable[Figure]) -> int:
    """Print all, each figure as soon as it is there; return 0 if every demanded limit is kept.

    Otherwise return 2, which no crash of Python does.

    Args:
        what: What is measured and what is left out: the docstring of the benchmark.
        figures: What was measured.
    """
    print(what, flush=True)
    kept = True
    for each in figures:
        print(each, flush=True)
        kept = kept and each.kept
    print(f"Medians of {ROUNDS} rounds, in brackets the lowest and the highest.\n", flush=True)
    return 0 if kept else 2
