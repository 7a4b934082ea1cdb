"""Futexes and memory barriers."""

from __future__ import annotations

from .base import BY_ONE, BYTES, ON_ENTRY, Call, Kind, Signature, address, bits, choice, flags, hexadecimal, numbered
from .common import TIMESPEC, D, P, U, X
from .time import CLOCK

OPERATIONS = numbered(
    "FUTEX_WAIT FUTEX_WAKE FUTEX_FD FUTEX_REQUEUE FUTEX_CMP_REQUEUE FUTEX_WAKE_OP FUTEX_LOCK_PI FUTEX_UNLOCK_PI "
    "FUTEX_TRYLOCK_PI FUTEX_WAIT_BITSET FUTEX_WAKE_BITSET FUTEX_WAIT_REQUEUE_PI FUTEX_CMP_REQUEUE_PI FUTEX_LOCK_PI2"
)
# How the last four arguments are written: U number, X hexadecimal, T time, P pointer, B bits, W what FUTEX_WAKE_OP does, - not
SHAPES = {0: "UT", 1: "U", 3: "UUP", 4: "UUPU", 5: "UUPW", 6: "-T", 7: "", 8: "", 9: "UT-B", 10: "U--B", 11: "UTP",
          12: "UUPU", 13: "-T"}  # fmt: skip
CHANGES, COMPARISONS = numbered("SET ADD OR ANDN XOR"), numbered("EQ NE LT LE GT GE")
BARRIERS = bits(
    "GLOBAL GLOBAL_EXPEDITED REGISTER_GLOBAL_EXPEDITED PRIVATE_EXPEDITED REGISTER_PRIVATE_EXPEDITED "
    "PRIVATE_EXPEDITED_SYNC_CORE REGISTER_PRIVATE_EXPEDITED_SYNC_CORE PRIVATE_EXPEDITED_RSEQ REGISTER_PRIVATE_EXPEDITED_RSEQ",
    "MEMBARRIER_CMD_",
)


def _operation(call: Call, arg: int) -> str:
    value = call.args[arg] & 0xFFFFFFFF
    name = OPERATIONS.get(value & 0x7F)
    if name is None:
        return f"{value:#x} /* FUTEX_??? */"
    return name + ("_PRIVATE" if value & 128 else "") + ("|FUTEX_CLOCK_REALTIME" if value & 256 else "")


def _wake(value: int) -> str:
    shift, change, comparison = value >> 31 & 1, value >> 28 & 7, value >> 24 & 15
    words = ["FUTEX_OP_OPARG_SHIFT<<28"] if shift else []
    words += [f"FUTEX_OP_{CHANGES[change]}<<28" if change in CHANGES else f"{change:#x}<<28 /* FUTEX_OP_??? */"]
    words += [f"{hexadecimal(value >> 12 & 0xFFF)}<<12"]
    words += [f"FUTEX_OP_CMP_{COMPARISONS[comparison]}<<24" if comparison in COMPARISONS else f"{comparison:#x}<<24"]
    return "|".join([*words, hexadecimal(value & 0xFFF)])


def _rest(call: Call, arg: int) -> str | None:
    value, low = call.args[arg], call.args[arg] & 0xFFFFFFFF
    shape = SHAPES.get(call.args[1] & 0x7F, "UXXX")[arg - 2 : arg - 1]
    if shape in ("", "-"):
        return None
    if shape == "T":
        return TIMESPEC.render(call, arg)
    if shape == "B":
        return "FUTEX_BITSET_MATCH_ANY" if low == 0xFFFFFFFF else hexadecimal(low)
    texts = {"P": address(value), "W": _wake(low), "X": hexadecimal(value), "U": str(low)}
    return texts[shape]


def _barrier(call: Call, arg: int) -> str:
    value = call.args[arg] & 0xFFFFFFFF
    if not value and call.returned and not call.error:
        call.base16, call.note = True, flags(call.ret, BARRIERS, "MEMBARRIER_CMD_???")
    return choice(value, BARRIERS | {0: "MEMBARRIER_CMD_QUERY"}, "MEMBARRIER_CMD_???")


REST = Kind(_rest)
CALLS: dict[str, Signature] = {
    "futex": (P, Kind(_operation), REST, Kind(_rest, ((ON_ENTRY, BYTES, BY_ONE, 16),)), REST, REST),
    "futex_waitv": (P, U, X, TIMESPEC, CLOCK), "membarrier": (Kind(_barrier), D),
}  # fmt: skip
