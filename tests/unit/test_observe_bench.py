"""Statistics of starts."""

from __future__ import annotations

from reflective.observe.bench import Spread, compare, spread


def test_spread() -> None:
    assert spread([5, 1, 4, 2, 3]) == Spread(3, 2, 4)
    assert spread([1, 2]) == Spread(1.5, 1.25, 1.75)


def test_ratios_are_of_pairs() -> None:
    """Each turn with its own reference: a turn in which everything was slow does not count for or against a way."""
    samples = {"a": [(1000, 10), (10000, 20), (2000, 30)], "b": [(500, 1), (5000, 2), (1000, 3)]}
    reference, other = compare("p", 15, 1 << 24, samples, "a")
    assert reference.ratio == Spread(1, 1, 1)
    assert other.ratio == Spread(2, 2, 2)
    assert (reference.whole_us.median, other.whole_us.median, other.call_us.median) == (2.0, 1.0, 0.002)
    assert (other.way, other.runs, other.program, other.megabytes, other.resident) == ("b", 3, "p", 15, 1 << 24)
