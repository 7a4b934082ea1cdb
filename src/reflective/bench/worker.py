"""The process that measures: `python -m reflective.bench.worker ORDER`, an object of JSON; answers with one on stdout.

It is a process of its own because its size is one of the things that matter.
"""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .ways import Start, start

WARM = 24  # starts of each way that do not count: by then a template knows the pages that its clones need


def main() -> None:
    """Carries out the order. Programs write to /dev/null."""
    order = json.loads(sys.argv[1])
    output = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2) if order["seconds"] is None else None
    with contextlib.ExitStack() as ends:
        ballast = grow(order["megabytes"])
        starts = {way: start(way, order["words"], ends) for way in order["ways"]}
        if order["seconds"] is None:
            answer: dict[str, Any] = {"samples": interleaved(starts, order["runs"])}
        else:
            (one,) = starts.values()
            for _ in range(WARM):
                os.waitpid(one(), 0)
            os.write(output, b"ready\n")
            sys.stdin.readline()
            answer = {"count": count(one, order["seconds"])}
        os.write(output, json.dumps({**answer, "resident": resident()}).encode() + b"\n")
        ballast.close()


def resident() -> int:
    """Bytes of memory that this process has (VmRSS)."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def grow(megabytes: int) -> mmap.mmap:
    """Makes this process as large as that, if it is smaller, with small pages that are written."""
    size = max((megabytes << 20) - resident(), mmap.PAGESIZE)
    ballast = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    ballast.madvise(mmap.MADV_NOHUGEPAGE)
    for at in range(0, size, mmap.PAGESIZE):
        ballast[at] = 1
    return ballast


def interleaved(starts: Mapping[str, Start], runs: int) -> dict[str, list[tuple[int, int]]]:
    """Each way in turn, so many times; the order goes round, so that none always comes after the same.

    For each start: ns from the call to the reaped child, and ns until the call returned.
    """
    times: dict[str, list[tuple[int, int]]] = {way: [] for way in starts}
    ways: Sequence[str] = list(starts)
    gc.disable()
    for turn in range(runs + WARM):
        first = turn % len(ways)
        for way in (*ways[first:], *ways[:first]):
            act = starts[way]
            before = time.perf_counter_ns()
            pid = act()
            called = time.perf_counter_ns()
            status = os.waitpid(pid, 0)[1]
            reaped = time.perf_counter_ns()
            if status:
                raise SystemExit(f"{way}: the program ended with wait status {status}")
            if turn >= WARM:
                times[way].append((reaped - before, called - before))
    return times


def count(act: Start, seconds: float) -> int:
    """How many starts, one after another, in that time."""
    made, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        os.waitpid(act(), 0)
        made += 1
    return made


if __name__ == "__main__":
    main()
