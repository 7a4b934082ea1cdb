"""Mutated programs (tests/mutations.py): the kernel's verdict and reflective's, 2,000 times.

`tools/fuzz verdicts` goes on without end. What it found is in tests/bad_mutated.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from judges import Court, Judge, court
from mutate import PROBE, Case
from mutations import generate

SEED, COUNT = 20_261_121, 2000


def descriptors(judge: Judge) -> list[str]:
    """Of the process that rules; read when it waits for the next case."""
    return sorted(os.listdir(f"/proc/{judge.process.pid}/fd"))


def children(judge: Judge) -> str:
    return Path(f"/proc/{judge.process.pid}/task/{judge.process.pid}/children").read_text()


def differences(both: Court, cases: list[Case]) -> list[str]:
    found = []
    for case in cases:
        rulings = both.differ(case)
        if rulings:
            small = both.smallest(case)
            kernel, ours = both.differ(small) or rulings
            found.append(f"{small}\n  kernel: {kernel}\n  reflective: {ours}")
    return found


@pytest.mark.slow
def test_2000_mutated_files() -> None:
    with court() as both:
        cases = [case for case in (generate(SEED, number) for number in range(COUNT)) if case.mode in both.pairs]
        assert not differences(both, cases[:50])
        before = [descriptors(ours) for _, ours in both.pairs.values()]
        found = differences(both, cases[50:])
        assert not found, "\n".join(found)
        assert [descriptors(ours) for _, ours in both.pairs.values()] == before
        assert [children(ours) for _, ours in both.pairs.values()] == ["" for _ in both.pairs]


def test_the_unchanged_programs_report() -> None:
    """The comparison is of something: every base runs to its end, and says more than a status."""
    with court() as both:
        for number in range(40):
            case = generate("bases", number)
            plain = Case(case.name, case.mode, case.files)
            if case.mode in both.pairs:
                kernel, ours = both.try_once(plain)
                assert (kernel.error, kernel.status) == (0, 42), case
                assert kernel == ours, case
                assert b"two words\0" in kernel.output
                assert len(kernel.output) > len(PROBE)
