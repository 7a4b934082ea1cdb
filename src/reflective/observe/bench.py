"""From samples of starts to medians, quartiles and ratios of pairs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from ..values import Value


class Spread(Value):
    """Median and quartiles."""

    median: float
    quartile_1: float
    quartile_3: float


class Comparison(Value):
    """A way of starting a program, from a process of `megabytes` (asked) or `resident` bytes (had).

    `whole_us`: µs from the call to the reaped child; `call_us`: until the call returned; `ratio`: the reference's whole time
    divided by this way's, turn by turn of the same run: above 1 this way is faster.
    """

    program: str
    megabytes: int
    resident: int
    way: str
    runs: int
    whole_us: Spread
    call_us: Spread
    ratio: Spread


class Throughput(Value):
    """Starts a second of `clients` processes at once, and as a ratio to the reference's."""

    program: str
    way: str
    clients: int
    per_second: float
    ratio: float


def spread(numbers: Sequence[float]) -> Spread:
    """Median and quartiles of at least two numbers."""
    first, middle, third = statistics.quantiles(numbers, n=4, method="inclusive")
    return Spread(middle, first, third)


def compare(
    program: str, megabytes: int, resident: int, samples: Mapping[str, Sequence[tuple[int, int]]], reference: str
) -> list[Comparison]:
    """One for each way of a run. `samples` are (whole, call) in ns, as many for each, the same index the same turn."""
    whole_of_reference = [whole for whole, _ in samples[reference]]
    return [
        Comparison(
            program,
            megabytes,
            resident,
            way,
            len(times),
            spread([whole / 1e3 for whole, _ in times]),
            spread([call / 1e3 for _, call in times]),
            spread([other / whole for other, (whole, _) in zip(whole_of_reference, times, strict=True)]),
        )
        for way, times in samples.items()
    ]
