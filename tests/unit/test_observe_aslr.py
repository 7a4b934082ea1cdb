"""The estimator, on addresses whose randomness is known."""

from __future__ import annotations

import math
import random

import pytest

from reflective.observe.aslr import is_even, region

BASE = 0x7F00_0000_0000


def drawn(bits: int, step: int, runs: int, seed: int) -> list[int]:
    source = random.Random(seed)
    return [BASE + source.getrandbits(bits) * step for _ in range(runs)] if bits else [BASE] * runs


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("bits", "step"), [(28, 4096), (22, 4096), (19, 2 << 20), (18, 4096), (30, 16), (1, 4096), (3, 4096)])
def test_bits_are_found(bits: int, step: int, seed: int) -> None:
    found = region("x", drawn(bits, step, 1000, seed))
    assert found.bits == pytest.approx(bits, abs=0.05)
    assert found.least - 0.03 <= bits <= found.most + 0.03
    assert found.proven <= bits
    assert (found.step, found.even) == (step, True)


def test_bound_holds_as_often_as_it_says() -> None:
    """95 of 100, give or take what that number itself varies."""
    samples = [region("x", drawn(28, 4096, 100, seed)) for seed in range(400)]
    inside = sum(one.least <= 28 <= one.most for one in samples)
    assert 365 <= inside <= 395
    assert sum(one.even for one in samples) >= 398


def test_fixed_address() -> None:
    found = region("x", [BASE] * 100)
    assert (found.bits, found.least, found.distinct, found.varying, found.step) == (0, 0, 1, 0, 0)
    assert 0 < found.most < 0.1


def test_uneven_is_an_upper_bound() -> None:
    """The product of two numbers is not spread evenly."""
    source = random.Random(1)
    found = region("x", [BASE + source.getrandbits(14) * source.getrandbits(14) * 4096 for _ in range(1000)])
    assert not found.even


def test_a_constant_bit_is_noticed() -> None:
    positions = [position & ~0x100 for position in (random.Random(seed).getrandbits(28) for seed in range(1000))]
    assert not is_even(positions)
    assert is_even([random.Random(seed).getrandbits(28) for seed in range(1000)])


def test_proven_grows_with_the_square_of_the_starts() -> None:
    few, many = (region("x", drawn(40, 4096, runs, 3)).proven for runs in (100, 1000))
    assert many - few == pytest.approx(2 * math.log2(10), abs=0.1)


def test_collisions_prove_what_is_there() -> None:
    assert region("x", drawn(8, 4096, 5000, 1)).proven == pytest.approx(8, abs=0.3)
    assert region("x", drawn(14, 4096, 5000, 1)).proven == pytest.approx(14, abs=0.3)
