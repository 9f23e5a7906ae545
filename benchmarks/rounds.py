"""Rounds, ratios and the report of every benchmark.

In a round the subjects run in turn, so that a drift of the machine's speed affects all of them
alike. Their order is shuffled, because each leaves its traces in the CPU caches. A ratio is taken
within a round; the report has the median, the lowest and the highest of all rounds.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from attrs import frozen

__all__ = ["ROUNDS", "Figure", "Limit", "Round", "in_rounds", "medians_in_turn", "ratio", "report"]

ROUNDS = 3

Round = Mapping[str, float]
"""The value that one round measured for each subject."""

_random = random.Random(1)  # noqa: S311


@frozen
class Limit:
    """The limit of a figure.

    Attributes:
        value: The bound; the bound itself meets the limit.
        at_least: Whether the limit is a lower bound; otherwise it is an upper bound.
        proposed: Whether the limit is printed only, and does not count for the exit status.
    """

    value: float
    at_least: bool = False
    proposed: bool = False

    def is_met_by(self, value: float) -> bool:
        """Return whether a value meets the limit."""
        return value >= self.value if self.at_least else value <= self.value

    def __str__(self) -> str:
        return (
            f"{'proposed ' if self.proposed else ''}limit: "
            f"{'at least' if self.at_least else 'at most'} {self.value:g}"
        )


@frozen
class Figure:
    """One figure of the result, usually a ratio.

    Attributes:
        name: The subject and the reference of the ratio, or the name of another value.
        values: One value per round.
        limit: The limit of the median, or None.
    """

    name: str
    values: Sequence[float]
    limit: Limit | None = None

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.values)

    @property
    def passed(self) -> bool:
        """Whether the median meets the limit; a proposed limit always passes."""
        return self.limit is None or self.limit.proposed or self.limit.is_met_by(self.median)

    def __str__(self) -> str:
        figure = f"{self.name}: {self.median:.2f} ({min(self.values):.2f}..{max(self.values):.2f})"
        if self.limit is None:
            return figure
        return (
            f"{figure}, {self.limit}, {'met' if self.limit.is_met_by(self.median) else 'NOT MET'}"
        )


def medians_in_turn(subjects: Mapping[str, Callable[[], float]], turns: int = 1) -> Round:
    """Run subjects in turn, and return the median of each.

    Args:
        subjects: Functions that do their work once and return the measured value.
        turns: The number of times that each subject runs.
    """
    measured: dict[str, list[float]] = {name: [] for name in subjects}
    order = list(subjects)
    for _ in range(turns):
        _random.shuffle(order)
        for name in order:
            measured[name].append(subjects[name]())
    return {name: statistics.median(values) for name, values in measured.items()}


def in_rounds(measure: Callable[[], Round]) -> list[Round]:
    """Return the measurements of all rounds."""
    return [measure() for _ in range(ROUNDS)]


def ratio(
    rounds: Iterable[Round], subject: str, reference: str, limit: Limit | None = None
) -> Figure:
    """Return the ratio of one subject to another in each round."""
    values = [each[subject] / each[reference] for each in rounds]
    return Figure(f"{subject} / {reference}", values, limit)


def report(what: str | None, figures: Iterable[Figure]) -> int:
    """Print the figures as they are measured; return 0 if every limit is met, otherwise 2.

    A crash of Python returns 1, so the two can be distinguished.

    Args:
        what: The docstring of the benchmark: what is measured and what is left out.
        figures: The figures.
    """
    print(what, flush=True)
    passed = True
    for each in figures:
        print(each, flush=True)
        passed = passed and each.passed
    print(f"Medians of {ROUNDS} rounds, in brackets the lowest and the highest.\n", flush=True)
    return 0 if passed else 2
