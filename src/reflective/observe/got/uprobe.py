"""Lazy bindings without a stop: two uprobes in the dynamic linker's resolver, at its entry and at the jump that leaves it.

What a probe fetches says it all: on entry the link_map, whose first word is l_addr, the relocation's index and the return
address lie on the stack, at the jump r11 is the target (glibc, sysdeps/x86_64/dl-trampoline.h). Names come from the files, by
what perf records of mappings: it does not matter that the process has ended when its records are read. Bindings at the start
can't be seen in this way.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from ...elf import relocations
from ...elf.image import PAGE, PF_X
from ...elf.relocations import JMPREL, JUMP_SLOT, TYPES, Slot, Slots
from ...elf.symbols import Symbols
from ...errors import LoadError, SessionError
from ...native.got import gated
from ...native.uprobe import Ended, Execed, Forked, Hit, Mapped, Probes, Record
from ...plan.build import search
from ...proc import loaded, maps
from ...proc.loaded import VDSO, Loaded
from ...proc.memory import Memory
from ...values import Value
from . import words
from .code import LONGEST_RESOLVER, resolver_jump
from .events import LAZY, Bind, Event, Exec, Exit, Fork, Note, Object
from .process import Tables

ENTER, LEAVE = "enter", "leave"
FETCHED = ("+0(+0(%sp))", "+8(%sp)", "+16(%sp)")
PROT_EXEC = 4
WAIT = 0.05  # s between two looks at the rings
WORD = (1 << 64) - 1


class Part(Value):
    """Code of a file in a process: [start, end), and what was added to the file's addresses."""

    start: int
    end: int
    path: str
    bias: int


class Reader:
    """From records to events. What is mapped is known by process, and is copied with it."""

    def __init__(self) -> None:
        self.tables = Tables()
        self._spaces: dict[int, list[Part]] = {}
        self.ended: dict[int, int] = {}  # when, by process
        self._new: set[int] = set()  # processes that have called execve, and have mapped nothing yet
        self._inside: dict[int, list[Hit]] = {}  # by thread: resolutions may nest (the resolver of an IFUNC calls something)
        self._slots: dict[str, Slots | None] = {}
        self._plt: dict[str, dict[int, Slot]] = {}
        own = maps.read(os.getpid())
        self._vdso: Symbols | None = loaded.tables(os.getpid(), own, ()).get(VDSO)  # the same in every process

    def attach(self, pid: int) -> None:
        """Takes in what is mapped in a process that runs already."""
        self._spaces[pid] = []
        for one in maps.read(pid):
            if one.prot & PROT_EXEC:
                self._map(pid, one.start, one.end - one.start, one.offset, one.path)

    def events(self, records: Iterable[Record]) -> Iterator[Event]:
        """In the order of the records; a process of which nothing is known yet has not become the program."""
        for one in records:
            if isinstance(one, Hit):
                if one.pid in self._spaces:
                    yield from self._hit(one)
            elif isinstance(one, Mapped):
                if one.pid in self._spaces:
                    if one.pid in self._new:  # the kernel maps the program before its linker
                        self._new.discard(one.pid)
                        yield Exec(one.pid, one.pid, one.t_ns, one.path)
                    part = self._map(one.pid, one.start, one.size, one.offset, one.path)
                    if part:
                        yield self._object(one.pid, one.t_ns, part)
            elif isinstance(one, Forked):
                if one.pid in self._spaces:
                    self._spaces[one.child] = list(self._spaces[one.pid])
                    yield Fork(one.pid, one.pid, one.t_ns, one.child, False)
            elif isinstance(one, Execed):
                self._spaces[one.pid] = []
                self._new.add(one.pid)
            elif isinstance(one, Ended):
                self.ended[one.pid] = one.t_ns
            else:
                yield Note(0, 0, one.t_ns, f"{one.count} records found no room: some bindings are missing")

    def _map(self, pid: int, start: int, size: int, offset: int, path: str) -> Part | None:
        """Takes in a mapping; what it is if it is code of an ELF file."""
        bias = start
        if path.startswith("/"):
            slots = self._file(path)
            load = next((x for x in slots.loads if x.flags & PF_X and x.offset & -PAGE == offset), None) if slots else None
            if slots is None or load is None:
                return None
            bias = start - (load.vaddr & -PAGE)
            self.tables.add(Loaded(path, bias, slots, path, ""))
        space = self._spaces[pid]
        space[:] = [part for part in space if part.end <= start or part.start >= start + size]
        space.append(Part(start, start + size, path, bias))
        return space[-1] if path.startswith("/") else None

    def _object(self, pid: int, t_ns: int, part: Part) -> Event:
        """What can be seen of it in this way."""
        slots = self._slots[part.path]
        assert slots is not None
        lazy = 0 if slots.bind_now else sum(one.type == JUMP_SLOT for one in slots.slots)
        if not slots.slots:
            note = "nothing to bind: it refers to no other object"
        elif slots.bind_now:
            note = "linked with -z now: all is bound when it is loaded, which uprobes do not show"
        else:
            note = f"{lazy} PLT slots: those that are bound by their first call are shown"
        kind = "now" if slots.bind_now else "lazy" if lazy else "none"
        where = (pid, pid, t_ns, part.path, part.bias)
        return Object(*where, kind, words.relro(slots), len(slots.slots), lazy, words.weak(slots), note)

    def _file(self, path: str) -> Slots | None:
        if path not in self._slots:
            self._slots[path] = None
            with suppress(LoadError):
                slots = self._slots[path] = relocations.read(path)
                self._plt[path] = {slot.index: slot for slot in slots.slots if slot.table == JMPREL}
        return self._slots[path]

    def _hit(self, hit: Hit) -> Iterator[Event]:
        inside = self._inside.setdefault(hit.tid, [])
        if hit.probe == ENTER:
            inside.append(hit)
        elif inside:
            yield self._bind(inside.pop(), hit)

    def _bind(self, enter: Hit, leave: Hit) -> Event:
        bias, index, caller = enter.values
        [after] = leave.values
        where = (leave.pid, leave.tid, leave.t_ns)
        space = self._spaces[leave.pid]
        owner = next((part for part in space if part.bias == bias and index in self._plt.get(part.path, ())), None)
        if owner is None:
            return Note(*where, f"relocation {index} of an object at {bias:#x} was bound to {after:#x}: its file is not known")
        slot, file = self._plt[owner.path][index], self._slots[owner.path]
        target = self._target(space, after, slot)
        return Bind(
            *where, LAZY, owner.path, slot.symbol, slot.version, TYPES.get(slot.type, str(slot.type)), bias + slot.offset,
            file.section(slot.offset) if file else "", slot.file, bias + slot.stub & WORD, after, *target, caller,
            *self._target(space, caller), leave.t_ns - enter.t_ns,
        )  # fmt: skip

    def _target(self, space: list[Part], address: int, slot: Slot | None = None) -> tuple[str, str, int]:
        """Object, symbol, and how far behind it; of several names there the slot's own."""
        part = next((one for one in space if one.start <= address < one.end), None)
        if part is None:
            return "", "", address
        if slot and any(one.value + part.bias == address for one in self.tables.exports(part.path, slot.symbol)):
            return part.path, slot.symbol, 0
        table = self._vdso if part.path == VDSO else self.tables.get(part.path)
        symbol = table.at(address - part.bias) if table else None
        return (part.path, symbol.name, address - part.bias - symbol.value) if symbol else (part.path, "", address - part.bias)


class UprobeWatch:
    """As session.Watch, but nothing is ever stopped: a program that is started, or processes that run. Raises SessionError."""

    def __init__(self, command: Sequence[str] = (), pid: int = 0, environ: Mapping[bytes, bytes] | None = None) -> None:
        self.status: int | None = None
        self.interrupted: Callable[[], bool] = lambda: False
        self._reader, self._started = Reader(), bool(command)
        gate = -1
        if command:
            plan = search(command[0], os.get_exec_path())
            if plan.interpreter is None:
                raise SessionError(f"{command[0]} is static: there is no dynamic linker to probe")
            self._probes = _probes(os.getpid(), plan.interpreter.path)
            self.pid, gate = gated(plan.path, command, os.environb if environ is None else environ)
        else:
            self._probes, self.pid = _probes(pid, ""), pid
        try:
            self._probes.open(self.pid)
            if not command:
                self._reader.attach(pid)
            elif os.write(gate, b"x") != 1:
                raise SessionError("the program could not be let go")
        except BaseException:
            self._probes.close()
            raise
        finally:
            if gate >= 0:
                os.close(gate)
        self._batches = self._run()

    def __iter__(self) -> Iterator[Event]:
        for events in self._batches:
            yield from events

    def batches(self) -> Iterator[list[Event]]:
        """The events, as many at once as came together."""
        return self._batches

    def close(self) -> None:
        """Removes the probes, before the end."""
        self._batches.close()

    def _run(self) -> Generator[list[Event], None, None]:
        with self._probes as probes:
            ended = False
            while not ended:
                ended = self.interrupted() or self._ended()
                yield [*self._reader.events(probes.records(WAIT, last=ended)), *self._exit()]

    def _exit(self) -> list[Event]:
        if self.status is None:
            return []
        killed = os.WIFSIGNALED(self.status)
        now = self._reader.ended.get(self.pid, 0) or time.monotonic_ns()
        code, number = (None, os.WTERMSIG(self.status)) if killed else (os.WEXITSTATUS(self.status), None)
        return [Exit(self.pid, self.pid, now, code, number, ())]

    def _ended(self) -> bool:
        """A program that we started is waited for; its children may live on."""
        if not self._started:
            return not os.path.exists(f"/proc/{self.pid}")
        if self.status is None:
            got, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if got else None
        return self.status is not None


def _probes(pid: int, path: str) -> Probes:
    """Probes in the resolver that a process uses: the address is in GOT[2] of each object that is bound lazily.

    Of the resolvers in ld.so, one for each way of saving vector registers, it is the one for this CPU. With `path` it must be
    that linker's: what runs here with the same one tells us about a program that does not run yet.
    """
    space = maps.read(pid)
    there = loaded.read(pid, space)
    with Memory(pid) as memory:
        heads = {one.bias + one.slots.pltgot + 16 for one in there if one.slots and one.slots.pltgot}
        for address in memory.words(heads).values():
            home = maps.at(space, address)
            linker = next((one for one in there if home and one.path == home.path and one.slots), None)
            if linker is None or not linker.slots or (path and not os.path.samefile(path, linker.file)):
                continue
            jump = resolver_jump(memory.read(address, LONGEST_RESOLVER))
            if jump is not None:
                offset = _offset(linker.slots, address - linker.bias)
                return Probes(linker.file, {ENTER: (offset, FETCHED), LEAVE: (offset + jump, ("%r11",))})
    what = f"{path} is not the linker of this process, so its resolver is not known" if path else "it binds nothing lazily"
    raise SessionError(f"no resolver to probe: {what}; --engine=c watches it")


def _offset(slots: Slots, address: int) -> int:
    """Where in the file a link-time address is."""
    load = next(one for one in slots.loads if one.vaddr <= address < one.vaddr + one.filesz)
    return address - load.vaddr + load.offset
