"""What a zygote is told to do is checked before it is written down (csrc/zygote/orders.c)."""

from __future__ import annotations

import errno
import random
from struct import pack_into

import pytest

from reflective.native import encode, zygote
from reflective.native._core import ffi, lib
from reflective.native.system import system

BIAS, SIZE = 0x5555_5555_4000, ffi.sizeof("struct refl_orders")
KIND, FLAGS, NUMBER, PARAM, ARGUMENT = 0, 2, 4, 8, 16  # offsets in an operation
MUTATIONS, SEED = 50_000, 20_261_128


@pytest.fixture(scope="module")
def orders() -> bytes:
    """Those for /bin/true."""
    recipe = zygote._recipe("/bin/true")
    assert recipe is not None
    return recipe._orders(system(), 0x35000, b"/bin/true\0")


def verdict(orders: bytes) -> int:
    """The errno, or 0."""
    return -lib.refl_check_orders(orders, len(orders), BIAS, system().task_end)


def member(name: str) -> int:
    """The offset of a member."""
    return int(ffi.offsetof("struct refl_orders", name))


def operation(orders: bytes, name: str) -> int:
    """Where the first operation that makes this call is."""
    number = encode.NUMBERS[name]
    found = range(SIZE, len(orders) - encode.OP.size, encode.OP.size)
    return next(at for at in found if encode.OP.unpack_from(orders, at)[:3:2] == (encode.CALL, number))


def test_good(orders: bytes) -> None:
    assert verdict(orders) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("op_count", 0), ("op_count", 1 << 58), ("op_count", 1 << 63), ("data", 0), ("data", 1 << 63), ("path", 0),
        ("path", 1 << 63), ("path_size", 0), ("path_size", 1), ("path_size", (1 << 64) - 1), ("shape_size", 0),
        ("shape_size", 0x35001), ("entry_param", 29), ("top", 3), ("top", 1 << 40),
    ],
)  # fmt: skip
def test_bad_member(orders: bytes, name: str, value: int) -> None:
    broken = bytearray(orders)
    pack_into("<Q", broken, member(name), value)
    assert verdict(bytes(broken)) == errno.EINVAL


@pytest.mark.parametrize(
    ("call", "at", "format", "value", "number"),
    [
        ("mmap", KIND, "<H", encode.CLOEXEC, errno.EINVAL),
        ("mmap", KIND, "<H", 8, errno.EINVAL),
        ("mmap", FLAGS, "<H", 0, errno.EINVAL),  # anywhere
        ("mmap", NUMBER, "<H", 512, errno.ENOSYS),
        ("mmap", PARAM, "<B", 29, errno.EINVAL),
        ("mmap", PARAM, "<B", encode.INDEX["blob"], errno.EINVAL),  # over the zygote
        ("mmap", ARGUMENT, "<Q", 1, errno.EINVAL),
        ("mmap", ARGUMENT, "<Q", 1 << 47, errno.ENOMEM),
        ("mmap", ARGUMENT + 8, "<Q", 0, errno.EINVAL),
    ],
)
def test_bad_operation(orders: bytes, call: str, at: int, format: str, value: int, number: int) -> None:
    broken = bytearray(orders)
    pack_into(format, broken, operation(orders, call) + at, value)
    assert verdict(bytes(broken)) == number


def test_bad_size(orders: bytes) -> None:
    for size in range(len(orders)):
        assert verdict(orders[:size]) in (errno.EINVAL, errno.E2BIG)
    assert verdict(orders[:-1] + b"x") == errno.EINVAL
    assert verdict(orders + bytes(1 << 20)) == errno.E2BIG


def test_any_change_is_accepted_or_refused(orders: bytes) -> None:
    chance, refused = random.Random(SEED), 0
    for _ in range(MUTATIONS):
        broken = bytearray(orders)
        for _ in range(chance.randint(1, 3)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        refused += verdict(bytes(broken)) != 0
    assert MUTATIONS // 10 < refused < MUTATIONS
