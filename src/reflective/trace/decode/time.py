"""Calls about time."""

from __future__ import annotations

import struct

from .base import (
    BY_ONE,
    BYTES,
    ON_ENTRY,
    ON_RETURN,
    Call,
    Kind,
    Signature,
    address,
    choice,
    fields,
    named,
    named_flags,
    numbered,
    signed,
    structure,
)
from .common import FD, TIMESPEC, TIMESPEC_OUT, TIMEVAL_OUT, D, P, U, date, timespec_text, timeval_text
from .signal import signal_name

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


def _event(call: Call, arg: int) -> str:
    """struct sigevent."""
    data = call.bytes(arg, ON_ENTRY, 64)
    if data is None:
        return address(call.args[arg])
    value, number, notify, more = struct.unpack_from("<QiiQ", data)
    known = {}
    if value:
        known["sigev_value"] = fields(sival_int=str(signed(value)), sival_ptr=address(value))
    known["sigev_signo"] = signal_name(number) if number else "0"
    known["sigev_notify"] = choice(notify & 0xFFFFFFFF, NOTIFY, "SIGEV_???")
    if notify == 2:
        known |= {
            "sigev_notify_function": address(more),
            "sigev_notify_attributes": address(int.from_bytes(data[24:32], "little")),
        }
    elif notify == 4:
        known["sigev_notify_thread_id"] = str(signed(more))
    return fields(**known)


def _time(call: Call, arg: int) -> str:
    if call.returned and not call.error:
        call.note = date(call.ret, 0)
    data = call.bytes(arg, ON_RETURN, 8)
    return f"[{int.from_bytes(data, 'little')} /* {date(call.ret, 0)} */]" if data else address(call.args[arg])


def _times(data: bytes, call: Call) -> str:
    names = ("tms_utime", "tms_stime", "tms_cutime", "tms_cstime")
    texts = [f"{value} /* {value // 100}.{value % 100:02} s */" if value else "0" for value in struct.unpack_from("<4q", data)]
    return fields(**dict(zip(names, texts, strict=True)))


NOTIFY = {0: "SIGEV_SIGNAL", 1: "SIGEV_NONE", 2: "SIGEV_THREAD", 4: "SIGEV_THREAD_ID"}
ID_OUT = structure(4, lambda data, call: f"[{int.from_bytes(data, 'little')}]", ON_RETURN)
CLOCK = named(CLOCKS, "CLOCK_???")
LEFT = Kind(_remaining, ((ON_RETURN, BYTES, BY_ONE, 16),), True)
ITIMERVAL = ("it_interval", "it_value")

CALLS: dict[str, Signature] = {
    "nanosleep": (TIMESPEC, LEFT),
    "clock_nanosleep": (CLOCK, named_flags({1: "TIMER_ABSTIME"}, "TIMER_???"), TIMESPEC, LEFT),
    "clock_gettime": (CLOCK, TIMESPEC_OUT), "clock_getres": (CLOCK, TIMESPEC_OUT), "clock_settime": (CLOCK, TIMESPEC),
    "gettimeofday": (TIMEVAL_OUT, P),
    "time": (Kind(_time, ((ON_RETURN, BYTES, BY_ONE, 8),), True),),
    "alarm": (U,), "times": (structure(32, _times, ON_RETURN),),
    "setitimer": (named(ITIMERS, "ITIMER_???"), _pair(ON_ENTRY, timeval_text, ITIMERVAL), _pair(ON_RETURN, timeval_text,
        ITIMERVAL)),
    "getitimer": (named(ITIMERS, "ITIMER_???"), _pair(ON_RETURN, timeval_text, ITIMERVAL)),
    "timerfd_create": (CLOCK, named_flags({0o2000000: "TFD_CLOEXEC", 0o4000: "TFD_NONBLOCK"}, "TFD_???")),
    "timerfd_settime": (FD, named_flags({1: "TFD_TIMER_ABSTIME", 2: "TFD_TIMER_CANCEL_ON_SET"}, "TFD_???"),
                        _pair(ON_ENTRY, None, ITIMERVAL), _pair(ON_RETURN, None, ITIMERVAL)),
    "timerfd_gettime": (FD, _pair(ON_RETURN, None, ITIMERVAL)),
    "timer_create": (CLOCK, Kind(_event, ((ON_ENTRY, BYTES, BY_ONE, 64),)), ID_OUT),
    "timer_settime": (D, named_flags({1: "TIMER_ABSTIME"}, "TIMER_???"), _pair(ON_ENTRY, None, ITIMERVAL),
                      _pair(ON_RETURN, None, ITIMERVAL)),
    "timer_gettime": (D, _pair(ON_RETURN, None, ITIMERVAL)), "timer_delete": (D,), "timer_getoverrun": (D,),
}  # fmt: skip
