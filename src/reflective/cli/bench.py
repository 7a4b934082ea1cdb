"""`reflective bench`: how long a start takes, from the call to the reaped child, by every way there is."""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..bench import cpuid
from ..bench.measure import COMMANDS, command, comparisons, throughput
from ..bench.ways import REFERENCE, WAYS, missing
from ..errors import ReflectiveError
from ..errors import said as describe
from ..observe.bench import Comparison, Throughput
from ..views import bench as view
from ..views import plot
from .exec import complain

FAILED = 1
SMALL, LARGE = 15, (200, 1000)  # MB; a large parent is measured with one program


def show(args: argparse.Namespace) -> int:
    """Prints what was measured; returns the exit status."""
    refused = plot.refusal(args.plot) if args.plot else ""
    if refused:
        return _fail(refused)
    said: list[str] = []
    try:
        with tempfile.TemporaryDirectory(prefix="reflective-bench-") as directory:
            ways = _ways(args.way, said)
            words = _words(args.program, Path(directory), said)
            found = list(_compared(args, words, ways))
            rates = _rates(args.clients, words, ways)
            machine = _cpuid(words, said)
    except (ReflectiveError, OSError, subprocess.CalledProcessError) as error:
        return _fail(describe(error))
    if args.plot:
        shown = [one for one in found if one.megabytes == found[0].megabytes]
        bars = [(o.program, o.way, o.whole_us.median, o.whole_us.quartile_1, o.whole_us.quartile_3) for o in shown]
        plot.bench(args.plot, bars, f"starts from a process of {shown[0].resident >> 20} MB, {args.runs} of each")
    if args.json:
        print("\n".join(view.lines(found, rates, machine, said)))
        return 0
    from ..views import text

    text.write(view.report(found, rates, machine, said), args.color)
    return 0


def _ways(asked: list[str], said: list[str]) -> list[str]:
    """What can be measured; for the rest the reason goes to `said`, or is an error if it was asked for."""
    reasons = {way: missing(way) for way in asked or WAYS}
    absent = [f"{way}: {reason}" for way, reason in reasons.items() if reason]
    if asked and absent:
        raise ReflectiveError("; ".join(absent))
    said += [f"not measured: {line}" for line in absent]
    return [way for way, reason in reasons.items() if not reason]


def _words(asked: list[str], directory: Path, said: list[str]) -> dict[str, tuple[str, ...]]:
    words = {}
    for name in asked or COMMANDS:
        try:
            words[name] = command(name, directory)
        except ReflectiveError as error:
            if asked:
                raise
            said.append(f"not measured: {error}")
    return words


def _compared(args: argparse.Namespace, words: dict[str, tuple[str, ...]], ways: list[str]) -> Iterator[Comparison]:
    from ..views.progress import Bar

    first = next(iter(words))
    sizes = {name: args.memory or [SMALL, *(LARGE if name == first else ())] for name in words}
    orders = [(name, megabytes) for name in words for megabytes in sizes[name]]
    with Bar("measurements", len(orders)) as bar:
        for name, megabytes in orders:
            yield from comparisons(name, words[name], ways, megabytes, args.runs)
            bar(1)


def _rates(clients: int, words: dict[str, tuple[str, ...]], ways: list[str]) -> list[Throughput]:
    first = next(iter(words))
    others = [way for way in ways if way not in (REFERENCE, "ulexecve")]
    return throughput(first, words[first], others, clients) if clients else []


def _cpuid(words: dict[str, tuple[str, ...]], said: list[str]) -> dict[str, float | int | None]:
    cost, number, steps = cpuid.cost_ns(), None, None
    if "true" in words:
        try:
            number, steps = cpuid.executed(words["true"])
        except OSError as error:
            said.append(f"CPUID instructions are not counted: {error}")
    return {"cost_ns": round(cost, 1), "count": number, "instructions": steps}


def _fail(message: str) -> int:
    complain(message)
    return FAILED
