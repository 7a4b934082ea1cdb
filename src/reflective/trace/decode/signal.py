"""Signals: calls, and what arrives."""

from __future__ import annotations

import struct

from .base import (
    BY_ONE,
    BYTES,
    ON_ENTRY,
    ON_RETURN,
    STACK,
    Call,
    Kind,
    Signature,
    address,
    fields,
    flags,
    named,
    numbered,
    signed,
)
from .common import FD, LU, TIMESPEC, D, X

SIGNALS = numbered(
    "SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2 SIGPIPE SIGALRM SIGTERM "
    "SIGSTKFLT SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGXCPU SIGXFSZ SIGVTALRM SIGPROF SIGWINCH SIGIO SIGPWR "
    "SIGSYS SIGRTMIN",
    1,
) | {number: f"SIGRT_{number - 32}" for number in range(33, 65)}
HOW = numbered("SIG_BLOCK SIG_UNBLOCK SIG_SETMASK")
ACTION = {
    0x04000000: "SA_RESTORER", 0x08000000: "SA_ONSTACK", 0x10000000: "SA_RESTART", 0x02000000: "SA_INTERRUPT",
    0x40000000: "SA_NODEFER", 0x80000000: "SA_RESETHAND", 4: "SA_SIGINFO", 1: "SA_NOCLDSTOP", 2: "SA_NOCLDWAIT",
    0x400: "SA_UNSUPPORTED", 0x800: "SA_EXPOSE_TAGBITS",
}  # fmt: skip
STACK_FLAGS = {1: "SS_ONSTACK", 2: "SS_DISABLE", 0x80000000: "SS_AUTODISARM"}
CODES = {0: "SI_USER", 0x80: "SI_KERNEL", -1: "SI_QUEUE", -2: "SI_TIMER", -3: "SI_MESGQ", -4: "SI_ASYNCIO", -5: "SI_SIGIO",
         -6: "SI_TKILL", -60: "SI_ASYNCNL"}  # fmt: skip
OWN_CODES = {
    4: numbered("ILL_ILLOPC ILL_ILLOPN ILL_ILLADR ILL_ILLTRP ILL_PRVOPC ILL_PRVREG ILL_COPROC ILL_BADSTK", 1),
    8: numbered("FPE_INTDIV FPE_INTOVF FPE_FLTDIV FPE_FLTOVF FPE_FLTUND FPE_FLTRES FPE_FLTINV FPE_FLTSUB", 1),
    11: numbered("SEGV_MAPERR SEGV_ACCERR SEGV_BNDERR SEGV_PKUERR", 1),
    7: numbered("BUS_ADRALN BUS_ADRERR BUS_OBJERR BUS_MCEERR_AR BUS_MCEERR_AO", 1),
    5: numbered("TRAP_BRKPT TRAP_TRACE TRAP_BRANCH TRAP_HWBKPT TRAP_UNK", 1),
    17: numbered("CLD_EXITED CLD_KILLED CLD_DUMPED CLD_TRAPPED CLD_STOPPED CLD_CONTINUED", 1),
    31: numbered("SYS_SECCOMP SYS_USER_DISPATCH", 1),
}
FAULTS = (4, 5, 7, 8, 11)


def signal_name(number: int) -> str:
    """SIGNAME, or the number."""
    return SIGNALS.get(number, str(number))


def signal_set(data: bytes) -> str:
    """A set of signals; the complement if most are in it."""
    mask = int.from_bytes(data[:8], "little")
    inverted = mask.bit_count() >= 64 * 2 // 3
    if inverted:
        mask = ~mask
    names = [signal_name(number + 1)[3:] for number in range(64) if mask >> number & 1]
    return f"{'~' if inverted else ''}[{' '.join(names)}]"


def _ticks(value: int) -> str:
    return f"{value} /* {value // 100}.{value % 100:02} s */" if value else "0"


def siginfo(data: bytes) -> str:
    """What a signal brings with it."""
    number, error, code = struct.unpack_from("<iii", data)
    if not number:
        return "{}"
    name = OWN_CODES.get(number, {}).get(code) or CODES.get(code)
    known = {"si_signo": signal_name(number), "si_code": name or f"{code & 0xFFFFFFFF:#x}"}
    if error:
        known["si_errno"] = str(error)
    pid, uid, value, _, utime, stime = struct.unpack_from("<16xiIiiqq", data)
    if number == 17 and code in OWN_CODES[17]:
        known |= {"si_pid": str(pid), "si_uid": str(uid), "si_status": str(value) if code == 1 else signal_name(value)}
        known |= {"si_utime": _ticks(utime), "si_stime": _ticks(stime)}
    elif number in FAULTS and code > 0:
        known["si_addr"] = address(struct.unpack_from("<16xQ", data)[0])
    elif code == -2:
        known |= {"si_timerid": hex(pid), "si_overrun": str(uid)}
    elif code <= 0:
        known |= {"si_pid": str(pid), "si_uid": str(uid)}
        if code == -1:
            number64 = struct.unpack_from("<24xQ", data)[0]
            known["si_value"] = fields(sival_int=str(value), sival_ptr=address(number64))
    return fields(**known)


def _handler(value: int) -> str:
    return {0: "SIG_DFL", 1: "SIG_IGN", (1 << 64) - 1: "SIG_ERR"}.get(value) or f"{value:#x}"


def _action(when: int) -> Kind:
    def render(call: Call, arg: int) -> str:
        data = call.bytes(arg, when, 32)
        if data is None:
            return address(call.args[arg])
        handler, mode, restorer = struct.unpack_from("<QQQ", data)
        known = {
            "sa_handler": _handler(handler),
            "sa_mask": signal_set(data[24:32]),
            "sa_flags": flags(mode, ACTION, "SA_???"),
        }
        return fields(**known, **({"sa_restorer": address(restorer)} if mode & 0x04000000 else {}))

    return Kind(render, ((when, BYTES, BY_ONE, 32),), when == ON_RETURN)


def _set(when: int) -> Kind:
    def render(call: Call, arg: int) -> str:
        data = call.bytes(arg, when, 8)
        return signal_set(data) if data is not None else address(call.args[arg])

    return Kind(render, ((when, BYTES, BY_ONE, 8),), when == ON_RETURN)


def _stack(when: int) -> Kind:
    def render(call: Call, arg: int) -> str:
        data = call.bytes(arg, when, 24)
        if data is None:
            return address(call.args[arg])
        pointer, mode, size = struct.unpack_from("<Qi4xQ", data)
        return fields(ss_sp=address(pointer), ss_flags=flags(mode & 0xFFFFFFFF, STACK_FLAGS, "SS_???"), ss_size=str(size))

    return Kind(render, ((when, BYTES, BY_ONE, 24),), when == ON_RETURN)


def _frame(call: Call, arg: int) -> str:
    data = call.bytes(0, ON_ENTRY, 8)
    return f"{{mask={signal_set(data)}}}" if data else "{mask=???}"


def _sent(call: Call, arg: int) -> str:
    data = call.bytes(arg, ON_ENTRY, 128)
    return siginfo(data) if data is not None else address(call.args[arg])


def _waited(call: Call, arg: int) -> str:
    data = call.bytes(arg, ON_RETURN, 128)
    if not call.returned or call.error:
        return address(call.args[arg])
    call.note = signal_name(call.ret)
    return siginfo(data) if data is not None else address(call.args[arg])


SENT = Kind(_sent, ((ON_ENTRY, BYTES, BY_ONE, 128),))
SIGNAL = Kind(lambda call, arg: signal_name(signed(call.args[arg])))
MASK, OLD_MASK = _set(ON_ENTRY), _set(ON_RETURN)
UC_SIGMASK = 296  # struct ucontext, which the stack pointer points to at rt_sigreturn

CALLS: dict[str, Signature] = {
    "rt_sigaction": (SIGNAL, _action(ON_ENTRY), _action(ON_RETURN), LU), "rt_sigsuspend": (MASK, LU),
    "rt_sigpending": (OLD_MASK, LU),
    "rt_sigprocmask": (named(HOW, "SIG_???"), MASK, OLD_MASK, LU),
    "rt_sigreturn": (Kind(_frame, ((ON_ENTRY, STACK, BY_ONE, UC_SIGMASK),)),),
    "kill": (D, SIGNAL), "tkill": (D, SIGNAL), "tgkill": (D, D, SIGNAL), "pause": (),
    "sigaltstack": (_stack(ON_ENTRY), _stack(ON_RETURN)),
    "rt_sigtimedwait": (MASK, Kind(_waited, ((ON_RETURN, BYTES, BY_ONE, 128),), True), TIMESPEC, LU),
    "rt_sigqueueinfo": (D, SIGNAL, SENT), "rt_tgsigqueueinfo": (D, D, SIGNAL, SENT),
    "pidfd_send_signal": (FD, SIGNAL, SENT, X),
}  # fmt: skip
