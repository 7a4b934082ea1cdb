"""From the records of a session (native/got.py) to events: what each stop means, and what is to be done before it ends.

The linker makes an object's relocated data read-only once that object is relocated: at its mprotect every slot is compared
with the file. Then word 2 of the GOT of an object that is bound lazily has the resolver's address; it is one for all objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from ...elf.relocations import COPY as R_COPY
from ...elf.relocations import IRELATIVE as R_IRELATIVE
from ...errors import SessionError
from ...native import got as native
from ...native import tracer
from ...native.got import Break, Change, Guard, Step, Table
from . import code, report, words
from .events import (
    DLOPEN,
    IRELATIVE,
    STARTUP,
    Detach,
    Dlclose,
    Dlopen,
    Event,
    Exec,
    Exit,
    Fork,
    Left,
    Note,
    Object,
    Relro,
    Resolver,
)  # fmt: skip
from .process import WORD, Process
from .process import Object as Loaded
from .redirect import Name
from .report import Where
from .slots import AT_ATTACH, AT_EXEC, AT_EXECVE, AT_EXIT, AT_START, AT_STATE, bound, compare, stored, waits

PROT_READ = 1
STATE_OFFSET, CONSISTENT = 24, 0  # struct r_debug: r_state
AT_MPROTECT = "mprotect"
MATCH = 16
C_LIBRARIES = ("libc.", "libc-", "ld-musl-")  # names of glibc's and musl's
EXECVES = {"execve": code.SYS_EXECVE, "execveat": code.SYS_EXECVEAT}  # fexecve is the second


class Engine:
    """What is known of all processes. `batch` takes records and gives events; `answer` is what the last question waits for."""

    def __init__(self, guards: Sequence[Name] = ()) -> None:
        """`guards`: slots that get debug registers, so that whoever writes them is known."""
        self.guards = guards
        self.processes: dict[int, Process] = {}
        self.answer: list[Change] | None = None
        self._left: dict[int, tuple[Left, ...]] = {}

    def batch(self, batch: bytes) -> Iterator[Event]:
        """The events of a batch. After each `answer` is None, or what the session waits for."""
        for kind, entered, left, body in tracer.records(batch):
            pid, tid, number, _, _, ret, *args = tracer.BODY.unpack_from(body)
            where = (pid, tid, left)
            if kind == native.BIND:
                yield from bound(where, self._process(pid), number, ret & WORD, args, left - entered)
            elif kind == native.ASK:
                yield from self._asked(where, args, body[tracer.BODY.size :])
            elif kind == tracer.CLONE:
                yield from self._forked(where, args[0], bool(args[2]))
            elif kind in (tracer.EXITED, tracer.KILLED):
                yield from self._ended(where, kind, args[0])
            elif kind == tracer.DETACHED:
                yield Detach(*where)
            elif kind == native.REFUSED:
                yield Note(*where, words.refused(args[0], args[1] == native.OP_GUARD))

    def _process(self, pid: int) -> Process:
        return self.processes.setdefault(pid, Process(pid))

    # What happens to processes

    def _forked(self, where: Where, child: int, shared: bool) -> Iterator[Event]:
        parent = self._process(where[0])
        self.processes[child] = parent if shared else parent.copy(child)
        yield Fork(*where, child, shared)

    def _ended(self, where: Where, kind: int, number: int) -> Iterator[Event]:
        if where[0] != where[1]:
            return
        process = self.processes.pop(where[0], None)
        if process and process.pid == where[0]:
            process.close()
        left = self._left.pop(where[0], ())
        exited = kind == tracer.EXITED
        yield Exit(*where, number if exited else None, None if exited else number, left)

    # Questions

    def _asked(self, where: Where, args: list[int], registers: bytes) -> Iterator[Event]:
        self.answer = []
        with suppress(SessionError):  # it has been killed; its end comes next
            yield from self._answered(where, args, registers)

    def _answered(self, where: Where, args: list[int], registers: bytes) -> Iterator[Event]:
        why, what = args[0], args[1]
        if why == native.ASK_EXEC:
            yield from self._executed(where)
        elif why == native.ASK_ATTACHED:
            yield from self._attached(where)
        elif why == native.ASK_MAP:
            self._tabulate(self._process(where[0]), what)
        elif why == native.ASK_EXIT:
            yield from self._exiting(where)
        elif why == native.ASK_WRITTEN:
            yield from stored(where, self._process(where[0]), what, registers)
        else:
            role = self._process(where[0]).points.get(what)
            if role == AT_MPROTECT:
                yield from self._protecting(where, args[2], args[3], args[4])
            elif role == AT_START:
                yield from self._begun(where)
            elif role == AT_STATE:
                yield from self._changed(where)
            elif role == AT_EXECVE:
                yield from self._look(where, self._process(where[0]), False, AT_EXECVE)

    def _executed(self, where: Where) -> Iterator[Event]:
        before = self.processes.get(where[0])
        if before and before.pid == where[0]:
            before.close()
        process = self.processes[where[0]] = Process(where[0])
        process.begin()
        process.looked = AT_EXEC, where[2]
        new, _ = process.scan()
        main = process.home(process.entry)
        process.main = main.path if main else ""
        yield Exec(*where, process.main or process.executable_path())
        if main is None or main.slots is None:
            yield Note(*where, next((one.there.note for one in new if one.slots is None), words.UNREADABLE))
            return
        yield from self._objects(where, process, new)
        self._point(process, process.entry, native.ONCE, AT_START)
        self._linker(process, process.home(process.base) if process.base else main)

    def _attached(self, where: Where) -> Iterator[Event]:
        process = self._process(where[0])
        process.begin()
        process.started = True
        new, _ = process.scan()
        main = process.home(process.entry)
        process.main = main.path if main else ""
        for one in new:
            one.held, one.relocated = process.words(one), True
            one.unbound = {at for at, slot in one.watched.items() if waits(one, at, slot)}
            one.lazy = len(one.unbound)
        process.attaching = True
        yield from self._objects(where, process, new)
        process.attaching = False
        process.looked = AT_ATTACH, where[2]
        for one in new:
            self._execves(process, one)
            yield from self._resolver(where, process, one)
            yield from self._guard(where, process, one)
        self._linker(process, process.home(process.base) if process.base else main)

    def _linker(self, process: Process, linker: Loaded | None) -> None:
        """Breakpoints where the linker calls mprotect, and where it tells debuggers that its list has changed."""
        if linker is None or linker.slots is None:
            return
        for load in linker.slots.loads:
            if load.flags & 1:
                text = process.memory.read(load.vaddr + linker.bias, load.filesz)
                for offset in code.calls(text, code.SYS_MPROTECT):
                    self._point(process, load.vaddr + linker.bias + offset, native.EVERY, AT_MPROTECT)
        for symbol in process.tables.exports(linker.path, "_dl_debug_state")[:1]:
            self._point(process, symbol.value + linker.bias, native.EVERY, AT_STATE)
        for symbol in process.tables.exports(linker.path, "_r_debug")[:1]:
            process.debug = symbol.value + linker.bias

    def _point(self, process: Process, address: int, kind: int, role: str) -> bool:
        """A breakpoint; False if the instruction there is none that can be displaced."""
        there = process.memory.read(address, MATCH)
        step = Step(native.SKIP, there[:1]) if kind == native.ONCE and there else code.step(there)
        if step is None:
            return False
        process.points[address] = role
        assert self.answer is not None
        self.answer.append(Break(address, kind, step))
        return True

    def _begun(self, where: Where) -> Iterator[Event]:
        """The linker's work is done; a static program does its own later."""
        process = self._process(where[0])
        yield from self._look(where, process, process.base != 0, AT_START)
        process.started = True

    def _changed(self, where: Where) -> Iterator[Event]:
        """The linker has loaded or unloaded objects, or will: struct r_debug's r_state says."""
        process = self._process(where[0])
        state = process.memory.read(process.debug + STATE_OFFSET, 4) if process.debug else bytes(4)
        if int.from_bytes(state, "little") == CONSISTENT:
            yield from self._look(where, process, False, AT_STATE)

    def _protecting(self, where: Where, start: int, size: int, prot: int) -> Iterator[Event]:
        process = self._process(where[0])
        if prot != PROT_READ:
            return
        one = process.home(start)
        if one is None:
            yield from self._arrivals(where, process)
            one = process.home(start)
        if one is None or start != one.relro.start:
            return
        yield from self._relocated(where, process, one)
        yield Relro(*where, one.path, start, start + size)

    def _exiting(self, where: Where) -> Iterator[Event]:
        process = self.processes.get(where[0])
        if process is None or process.pid != where[0]:  # it lives in its parent's memory
            return
        yield from self._look(where, process, True, AT_EXIT)
        self._left[where[0]] = tuple(Left(one.path, one.lazy, len(one.unbound)) for one in process.objects if one.lazy)

    # Objects

    def _objects(self, where: Where, process: Process, new: list[Loaded]) -> Iterator[Event]:
        linking = process.linking()
        for one in new:
            if one.slots is None:
                yield Note(*where, f"{one.path}: {one.there.note}")
            if one.slots is None or not (one.watched or one.path == process.main):
                continue
            how = linking.replace(unbound=len(one.unbound)) if one.relocated else linking
            binding, note = words.binding(one.slots, how)
            lazy, weak = words.lazy(one.slots, how), words.weak(one.slots)
            yield Object(*where, one.path, one.bias, binding, words.relro(one.slots), len(one.watched), lazy, weak, note)

    def _arrivals(self, where: Where, process: Process) -> Iterator[Event]:
        new, gone = process.scan()
        for one in gone:
            yield Dlclose(*where, one.path, one.bias)
        for one in new:
            self._execves(process, one)
        if not process.started:
            yield from self._objects(where, process, new)
            return
        for one in new:
            yield Dlopen(*where, one.path, one.bias)
            if not one.watched:
                yield from self._objects(where, process, [one])

    def _look(self, where: Where, process: Process, all_are_relocated: bool, when: str) -> Iterator[Event]:
        """At a stop of any kind: objects that came or went, those relocated by now, slots that have changed."""
        yield from self._arrivals(where, process)
        for one in process.objects:
            if one.relocated:
                yield from compare(where, process, one, when)
            elif one.watched:
                held = process.words(one)
                if any(held.get(at) != slot.file for at, slot in one.watched.items()) or (
                    all_are_relocated and one.bias == 0 and process.base
                ):
                    yield from self._relocated(where, process, one)
        process.looked = when, where[2]

    def _relocated(self, where: Where, process: Process, one: Loaded) -> Iterator[Event]:
        """An object's slots for the first time after its relocation."""
        if one.relocated:
            return
        one.relocated, one.held = True, process.words(one)
        one.unbound = {at for at, slot in one.watched.items() if waits(one, at, slot)}
        one.lazy = len(one.unbound)
        if process.started:
            yield from self._objects(where, process, [one])
        yield from self._resolver(where, process, one)
        yield from self._guard(where, process, one)
        for address, slot in one.watched.items():
            value = one.held.get(address, 0)
            if slot.type == R_COPY:
                yield report.copied(where, process, one, address)
            elif value and address not in one.unbound:
                before = one.stub(slot) or slot.file
                how = IRELATIVE if slot.type == R_IRELATIVE else DLOPEN if process.started else STARTUP
                yield report.bind(where, process, one, address, how, before, value)

    def _resolver(self, where: Where, process: Process, one: Loaded) -> Iterator[Event]:
        link_map, entry = process.got(one)
        if not link_map or not entry or not process.executable(entry):
            return
        assert self.answer is not None
        self.answer.append(Table(link_map, one.table()))
        process.maps[link_map] = one
        if entry in process.points:
            return
        text = process.memory.read(entry, code.LONGEST_RESOLVER)
        at = code.resolver_jump(text)
        home = process.home(entry)
        path = home.path if home else ""
        if at is None or not self._point(process, entry, native.ENTRY, "resolver"):
            process.points[entry] = "unknown"
            yield Note(
                *where, f"{path}: the resolver at {entry:#x} begins or ends as none that is known: lazy bindings are not seen"
            )
            return
        self._point(process, entry + at, native.JUMP, "jump")
        yield Resolver(*where, path, entry, entry + at)

    def _guard(self, where: Where, process: Process, one: Loaded) -> Iterator[Event]:
        """Debug registers on those of its slots that are to have them."""
        wanted = [
            address
            for address, slot in one.watched.items()
            if one.guarded(address, slot) and any(name.fits(slot, one.path, process.main) for name in self.guards)
        ]
        assert self.answer is not None
        for address in wanted:
            if len(process.guarded) == native.GUARDS:
                yield Note(*where, words.refused(address, True))
            elif address not in process.guarded:
                process.guarded += (address,)
                self.answer.append(Guard(address))

    def _execves(self, process: Process, one: Loaded) -> None:
        """Breakpoints where a C library calls execve, after which there is nothing left to compare."""
        if not one.path.rpartition("/")[2].startswith(C_LIBRARIES):
            return
        for name, number in EXECVES.items():
            for symbol in process.tables.exports(one.path, name)[:1]:
                start = symbol.value + one.bias
                for offset in code.calls(process.memory.read(start, symbol.size), number)[:1]:
                    self._point(process, start + offset, native.EVERY, AT_EXECVE)

    def _tabulate(self, process: Process, link_map: int) -> None:
        """A link_map that no stop has shown: its first word is the load bias (struct link_map: l_addr)."""
        bias = int.from_bytes(process.memory.read(link_map, 8), "little")
        if not any(one.bias == bias for one in process.objects):
            process.scan()
        one = next((one for one in process.objects if one.bias == bias), None)
        assert self.answer is not None
        self.answer.append(Table(link_map, one.table() if one else ()))
        if one:
            process.maps[link_map] = one
