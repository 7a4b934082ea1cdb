"""Calls about time."""

from __future__ import annotations

from .base import (
    BY_ONE,
    BYTES,
    ON_ENTRY,
    ON_RETURN,
    Call,
    Kind,
    Signature,
    address,
    fields,
    named,
    named_flags,
    numbered,
    structure,
)
from .common import FD, TIMESPEC, TIMESPEC_OUT, TIMEVAL_OUT, D, P, U, timespec_text, timeval_text

CLOCKS = numbered(
    "CLOCK_REALTIME CLOCK_MONOTONIC CLOCK_PROCESS_CPUTIME_ID CLOCK_THREAD_CPUTIME_ID CLOCK_MONOTONIC_RAW "
    "CLOCK_REALTIME_COARSE "
    "CLOCK_MONOTONIC_COARSE CLOCK_BOOTTIME CLOCK_REALTIME_ALARM CLOCK_BOOTTIME_ALARM - CLOCK_TAI"
)
ITIMERS = numbered("ITIMER_REAL ITIMER_VIRTUAL ITIMER_PROF")


def _pair(when: int, text: object, names: tuple[str, str]) -> Kind:
    write = timeval_text if text is timeval_text else timespec_text
    return structure(32, lambda data, call: fields(**{names[0]: write(data), names[1]: write(data[16:])}), when)


def _remaining(call: Call, arg: int) -> str:
    """What is left of a sleep: only an interrupted one says."""
    data = call.bytes(arg, ON_RETURN, 16)
    return timespec_text(data) if data and call.error and call.ret != 0 else address(call.args[arg])


CLOCK = named(CLOCKS, "CLOCK_???")
LEFT = Kind(_remaining, ((ON_RETURN, BYTES, BY_ONE, 16),), True)
ITIMERVAL = ("it_interval", "it_value")

CALLS: dict[str, Signature] = {
    "nanosleep": (TIMESPEC, LEFT),
    "clock_nanosleep": (CLOCK, named_flags({1: "TIMER_ABSTIME"}, "TIMER_???"), TIMESPEC, LEFT),
    "clock_gettime": (CLOCK, TIMESPEC_OUT), "clock_getres": (CLOCK, TIMESPEC_OUT), "clock_settime": (CLOCK, TIMESPEC),
    "gettimeofday": (TIMEVAL_OUT, P), "time": (P,), "alarm": (U,), "times": (P,),
    "setitimer": (named(ITIMERS, "ITIMER_???"), _pair(ON_ENTRY, timeval_text, ITIMERVAL), _pair(ON_RETURN, timeval_text,
        ITIMERVAL)),
    "getitimer": (named(ITIMERS, "ITIMER_???"), _pair(ON_RETURN, timeval_text, ITIMERVAL)),
    "timerfd_create": (CLOCK, named_flags({0o2000000: "TFD_CLOEXEC", 0o4000: "TFD_NONBLOCK"}, "TFD_???")),
    "timerfd_settime": (FD, named_flags({1: "TFD_TIMER_ABSTIME", 2: "TFD_TIMER_CANCEL_ON_SET"}, "TFD_???"),
                        _pair(ON_ENTRY, None, ITIMERVAL), _pair(ON_RETURN, None, ITIMERVAL)),
    "timer_delete": (D,), "timer_getoverrun": (D,),
}  # fmt: skip
