"""A program that is started, stopped at a phase of its start, looked at, and ended. The sole importer of python-ptrace.

Every stop is a debug register (no int3): the program's memory stays as it is, also if this process dies, in which case the
kernel kills the program too (PTRACE_O_EXITKILL). Forks are not followed.
"""

from __future__ import annotations

import os
import signal
from types import TracebackType

from ptrace import PtraceError
from ptrace.binding.func import REGISTER_NAMES, ptrace_detach, ptrace_pokeuser
from ptrace.debugger import ProcessEvent, PtraceDebugger, PtraceProcess

from ..errors import LoadError, SessionError
from ..native import traced
from ..native.child import Setup
from ..native.prepare import Request
from ..native.run import attend, block_signals, spawn, unblock_signals
from ..native.system import system
from ..plan import stack as initial
from ..plan.layout import Layout
from ..proc import maps
from ..proc.objects import executable
from .starts import KERNEL, PYTHON_IGNORES, Program, why_not_traced

LOADER, INTERPRETER, ENTRY, MAIN, EXIT = PHASES = ("loader", "interpreter", "entry", "main", "exit")
EXITKILL, TRACEEXIT, EVENT_EXIT = 0x100000, 0x40, 6  # linux/ptrace.h
TRACEEXEC, EVENT_EXEC = 0x10, 4
DEBUG_REGISTERS = 848  # offsetof(struct user, u_debugreg), x86-64
ON_EXECUTION = 1  # DR7: register 0, on execution, one byte
STEPS_TO_MAIN, LONGEST_INSTRUCTION = 200, 15
STEPS_TO_ENTRY = 32


class Session:
    """A traced program. `run_to` takes it from phase to phase; leaving the `with` block kills it."""

    def __init__(self, program: Program, via: str) -> None:
        self.program, self.via = program, via
        self.phase = ""
        self.pid = 0
        self._exiting = False
        self._debugger = PtraceDebugger()
        self._debugger.options |= EXITKILL | TRACEEXIT | TRACEEXEC
        self._process: PtraceProcess | None = None

    def __enter__(self) -> Session:
        try:
            self._start()
        except LoadError as error:
            self._end()
            raise SessionError(f"{error}{why_not_traced(error)}") if why_not_traced(error) else error from None
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def run_to(self, phase: str) -> None:
        """Lets the program run to a phase, or stay where it is if it stands there.

        Raises SessionError if it has passed it, ends before it, or has no such phase.
        """
        if self.phase and PHASES.index(phase) < PHASES.index(self.phase):
            raise SessionError(f"the program is past {phase}: it stands at {self.phase}")
        if phase in (LOADER, self.phase):
            return
        if self.phase == LOADER:
            self._leave_loader()
            self.phase = INTERPRETER
        if phase == INTERPRETER and not self._vector().get(initial.AT_BASE):
            raise SessionError("a static program has no interpreter: its first phase is entry")
        if phase in (ENTRY, MAIN):
            self._run(self._vector()[initial.AT_ENTRY], ENTRY)
        if phase == MAIN:
            self._run(self._find_main(), MAIN)
        if phase == EXIT:
            self._run(None, EXIT)
        self.phase = phase

    def registers(self) -> dict[str, int]:
        """The general registers, by name."""
        registers = self._traced.getregs()
        return {name: int(getattr(registers, name)) for name in REGISTER_NAMES}

    def read(self, address: int, size: int) -> bytes:
        """Memory of the program."""
        return bytes(self._traced.readBytes(address, size))

    def finish(self) -> int:
        """Lets the program run on, traced no more, and stands in for it until it ends: its wait status."""
        mask = block_signals()
        try:
            ptrace_detach(self.hand_over())
            return attend(self.pid)
        finally:
            unblock_signals(mask)

    def hand_over(self) -> int:
        """Ends the session, not the program: it stands where it stood, traced by the caller, who has its pid now."""
        pid = int(self._traced.pid)
        self._forget()
        return pid

    @property
    def _traced(self) -> PtraceProcess:
        if self._process is None:
            raise SessionError("the program has ended")
        return self._process

    def _start(self) -> None:
        if self.via == KERNEL:
            self.pid = traced.Command(self.program.plan.path, self.program.argv, self.program.envp).start()
            self._adopt(self.pid)
        else:
            setup = Setup(default_signals=PYTHON_IGNORES, traced=True)
            spawn(Request(self.program.plan, self.program.argv, self.program.envp, setup=setup), self._watch)
        self.phase = LOADER

    def _watch(self, pid: int, layout: Layout) -> None:
        """A child of reflective's: to the last system call of the load, made from the vdso, or else to the program's start."""
        self.pid = pid
        try:
            self._adopt(pid)
            plan, gadget = self.program.plan, system().gadget
            bases = {"exe": layout.exe, "interp": layout.interp}
            self._first = bases[plan.entry.base] + plan.entry.offset
            self._run(layout.vdso + gadget if gadget else self._first, LOADER)
        except (SessionError, ProcessEvent):
            self._forget()  # it has ended, and spawn knows why

    def _adopt(self, pid: int) -> None:
        self._process = self._debugger.addProcess(pid, is_attached=True)

    def _leave_loader(self) -> None:
        """From the system call in the vdso over the few instructions behind it; the kernel is there already."""
        if self.via == KERNEL:
            return
        for _ in range(STEPS_TO_ENTRY):
            if self._traced.getInstrPointer() == self._first:
                return
            self._step()
        raise SessionError("the loader did not get to the program's first instruction")

    def _vector(self) -> dict[int, int]:
        return dict(initial.parse_auxv(maps.content(self.pid, "auxv")))

    def _find_main(self) -> int:
        """The first argument of the first call or jump, from the entry on, that is an address in the executable's code.

        That is __libc_start_main(main, …), called by glibc's _start, and jumped to by musl's _start_c; it needs no symbols.
        """
        at = self._traced.getInstrPointer()
        space = maps.read(self.pid)
        home = maps.at(space, at)
        for _ in range(STEPS_TO_MAIN):
            self._step()
            after, before = self.registers(), at
            at = after["rip"]
            target = None if 0 <= at - before <= LONGEST_INSTRUCTION else maps.at(space, after["rdi"])
            if target and home and target.prot & 4 and target.path == home.path:
                return after["rdi"]
        raise SessionError(
            "main is not to be found: the program's start does not hand it to __libc_start_main; try --at entry"
        )

    def _step(self) -> None:
        self._traced.singleStep()
        self._stopped("it got there")

    def _run(self, address: int | None, phase: str) -> None:
        """Runs to an address, or (None) to the exit, which is a stop of its own: kernel/exit.c: do_exit."""
        process, number = self._traced, 0
        if address is not None and process.getInstrPointer() == address:
            return
        if address is not None:
            self._debug_registers(address, ON_EXECUTION)
        while True:
            process.cont(number)
            number = self._stopped(phase)
            if number == 0:
                return
            if number == signal.SIGTRAP and address is not None and process.getInstrPointer() == address:
                self._debug_registers(0, 0)
                return

    def _stopped(self, phase: str) -> int:
        """Waits for the next stop: its signal, 0 for the exit where that is wanted. Raises SessionError at any other end."""
        _, status = os.waitpid(self.pid, 0)
        if os.WIFSTOPPED(status) and status >> 16 == EVENT_EXEC:
            raise SessionError(
                f"before {phase} the program becomes another, {executable(self.pid)}: look at that one, or at an earlier phase"
            )
        exiting = self._exiting = os.WIFSTOPPED(status) and status >> 16 == EVENT_EXIT
        if exiting and phase == EXIT:
            return 0
        if exiting or not os.WIFSTOPPED(status):
            if not exiting:
                self._forget()
            raise SessionError(f"the program ended before {phase}")
        return os.WSTOPSIG(status)

    def _debug_registers(self, address: int, control: int) -> None:
        try:
            ptrace_pokeuser(self.pid, DEBUG_REGISTERS, address)
            ptrace_pokeuser(self.pid, DEBUG_REGISTERS + 7 * 8, control)
        except PtraceError as error:
            raise SessionError(f"this machine gives no hardware breakpoint: {error}") from None

    def _forget(self) -> None:
        """python-ptrace must not detach from, or wait for, what is no more."""
        process, self._process = self._process, None
        if process:
            process.is_attached = process.running = False
            if process.read_mem_file:
                process.read_mem_file.close()
            self._debugger.deleteProcess(process)

    def _end(self) -> None:
        if self._process is not None:
            os.kill(self.pid, signal.SIGKILL)
            if self._exiting:  # no signal wakes it there
                self._process.cont()
            while os.WIFSTOPPED(os.waitpid(self.pid, 0)[1]):
                self._process.cont()  # its exit is a stop too
        self._forget()
