"""A watched process: which objects it has loaded, and what was last known of their slots."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from struct import Struct

from ...elf import symbols
from ...elf.image import PAGE, FileIdentity
from ...elf.relocations import ABS64, COPY, GLOB_DAT, IRELATIVE, JMPREL, JUMP_SLOT, Slot
from ...elf.symbols import Symbol, Symbols
from ...errors import LoadError
from ...plan.stack import AT_BASE, AT_ENTRY, parse_auxv
from ...proc import loaded, maps
from ...proc.loaded import VDSO, Loaded
from ...proc.memory import Memory
from .words import Linking

WATCHED = (JUMP_SLOT, GLOB_DAT, ABS64, COPY, IRELATIVE)
WORD = (1 << 64) - 1
WORDS = Struct("<QQQ")
PROT_EXEC = 4
NEAR = 64  # bytes from slot to slot


class Object:
    """A loaded file, and its slots as they were last seen."""

    def __init__(self, there: Loaded) -> None:
        self.there, self.path, self.bias, self.slots = there, there.path, there.bias, there.slots
        rows = there.slots.slots if there.slots else ()
        self.watched: dict[int, Slot] = {slot.offset + self.bias & WORD: slot for slot in rows if slot.type in WATCHED}
        self.held: dict[int, int] = {}
        self.unbound: set[int] = set()
        self.bound: dict[int, int] = {}  # when, in ns, by a first call that was seen
        self.lazy = 0
        self.relocated = False
        self._near, self._name = range(0), ""
        relro = there.slots.relro if there.slots else None
        start, size = relro or (0, 0)
        self.relro = range(start + self.bias & -PAGE, start + size + self.bias & -PAGE)
        loads = there.slots.loads if there.slots else ()
        ends = [(load.vaddr + self.bias, load.vaddr + load.memsz + self.bias) for load in loads] or [(self.bias, self.bias)]
        self.start, self.end = min(ends)[0] & -PAGE, max(end for _, end in ends)
        self.spans = _spans(sorted(at for at, slot in self.watched.items() if self.guarded(at, slot)))
        self.seen: dict[int, bytes] = {}  # what the spans held last, by their first address

    def copy(self) -> Object:
        """As a fork has it."""
        other = object.__new__(Object)
        mine = {"held": dict(self.held), "unbound": set(self.unbound), "seen": dict(self.seen), "bound": dict(self.bound)}
        other.__dict__.update(self.__dict__, **mine)
        return other

    def section(self, address: int) -> str:
        """The name of the section that a slot is in, which mostly is that of the one before."""
        if address not in self._near:
            place, sections = address - self.bias & WORD, self.slots.sections if self.slots else ()
            found = next((one for one in sections if one.address <= place < one.address + one.size), None)
            if found is None:
                return ""
            self._near = range(found.address + self.bias, found.address + found.size + self.bias)
            self._name = found.name
        return self._name

    def table(self) -> tuple[int, ...]:
        """The address of each slot of DT_JMPREL, by relocation index."""
        rows = (
            {slot.index: slot.offset + self.bias & WORD for slot in self.slots.slots if slot.table == JMPREL}
            if self.slots
            else {}
        )
        return tuple(rows.get(index, 0) for index in range(max(rows, default=-1) + 1))

    def stub(self, slot: Slot) -> int:
        """What the relocated slot holds until it is bound by a call; 0 if it is bound otherwise."""
        return slot.stub + self.bias & WORD if slot.stub else 0

    def guarded(self, address: int, slot: Slot) -> bool:
        """True if nobody but the linker has any business there. A pointer variable outside RELRO is the program's own."""
        return slot.type in (JUMP_SLOT, GLOB_DAT, IRELATIVE) or (slot.type == ABS64 and address in self.relro)


class Tables:
    """The symbols of loaded files, by path, each read when it is first asked for."""

    def __init__(self) -> None:
        self._known: dict[str, Symbols | None] = {}
        self._files: dict[str, str] = {}
        self._exports: dict[str, dict[str, list[Symbol]]] = {}

    def add(self, one: Loaded) -> None:
        """Where the symbols of a file come from."""
        self._files[one.path] = one.file

    def get(self, path: str) -> Symbols | None:
        """The symbols of a file; None if it has none, or can't be read."""
        if path not in self._known:
            self._known[path] = _symbols(path, self._files.get(path, ""))
        return self._known[path]

    def exports(self, path: str, name: str) -> list[Symbol]:
        """The symbols of this name in a file that others can be bound to; a program's PLT entry too, as its address is."""
        known = self._exports.get(path)
        if known is None:
            known = self._exports[path] = {}
            for symbol in self.get(path) or ():
                if symbol.kind == "PLT" or symbol.binding != "LOCAL":
                    known.setdefault(symbol.name.removesuffix("@plt"), []).append(symbol)
        return known.get(name, [])


_read: dict[tuple[str, FileIdentity], Symbols | None] = {}


def _symbols(path: str, file: str) -> Symbols | None:
    """Those of a file, read once for all processes: each of them has its own path to it."""
    try:
        key = (path, FileIdentity.of(os.stat(file)))
        if key not in _read:
            _read[key] = symbols.of(file)
        return _read[key]
    except (LoadError, OSError):
        return None


class Process:
    """What is known of a process; it is new after each execve, and copied by a fork."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.objects: list[Object] = []
        self.points: dict[int, str] = {}
        self.maps: dict[int, Object] = {}  # by link_map
        self.guarded: tuple[int, ...] = ()  # slots that have a debug register
        self.looked = ("at the start", 0)  # when all slots were last compared, in ns
        self.started = self.now = self.inherited = self.attaching = False
        self.main = ""
        self.base = self.entry = self.debug = 0
        self.tables = Tables()
        self.space: tuple[maps.Mapping, ...] = ()
        self._memory: Memory | None = None
        self._starts: list[int] = []
        self._callers: dict[int, tuple[str, str, int]] = {}
        self._places: dict[tuple[int, int], tuple[int, ...]] = {}  # where each file was mapped, by device and inode

    def copy(self, pid: int) -> Process:
        """The child of a fork."""
        other = object.__new__(Process)
        other.__dict__.update(self.__dict__, pid=pid, _memory=None, points=dict(self.points), inherited=True)
        other.objects = [one.copy() for one in self.objects]
        twins = dict(zip(map(id, self.objects), other.objects, strict=True))
        other.maps = {link_map: twins[id(one)] for link_map, one in self.maps.items() if id(one) in twins}
        return other

    def linking(self) -> Linking:
        """Its dynamic linker, and how that binds."""
        home = self.home(self.base) if self.base else None
        main = self.home(self.entry)
        interpreter = (main.slots.interpreter if main and main.slots else None) or ""
        musl = "musl" in interpreter or bool(home and "musl" in home.path)
        return Linking(home.path if home else "", musl, self.now, attached=self.attaching)

    @property
    def memory(self) -> Memory:
        """Its memory, opened once."""
        if self._memory is None:
            self._memory = Memory(self.pid)
        return self._memory

    def close(self) -> None:
        """Lets go of its memory."""
        if self._memory is not None:
            self._memory.__exit__(None, None, None)
            self._memory = None

    def begin(self) -> None:
        """Reads where the kernel has put the program and its interpreter. Raises SessionError."""
        vector = dict(parse_auxv(maps.content(self.pid, "auxv")))
        self.base, self.entry = vector.get(AT_BASE, 0), vector.get(AT_ENTRY, 0)
        variables = dict(item.partition(b"=")[::2] for item in maps.content(self.pid, "environ").split(b"\0"))
        self.now = bool(variables.get(b"LD_BIND_NOW"))

    def scan(self) -> tuple[list[Object], list[Object]]:
        """Objects that have come, and that have gone, since the last time. Raises SessionError."""
        self.space, self._callers = maps.read(self.pid), {}
        firsts: dict[tuple[int, int], list[maps.Mapping]] = {}
        for mapping in self.space:
            if mapping.file and mapping.path.startswith("/"):
                firsts.setdefault((mapping.device, mapping.inode), []).append(mapping)
        spots = {mapping.start for group in firsts.values() for mapping in group}
        gone = [one for one in self.objects if not any(one.start <= spot < one.end for spot in spots)]
        places = {key: tuple(mapping.start for mapping in group) for key, group in firsts.items()}
        fresh = [mapping for key, group in firsts.items() if self._places.get(key) != places[key] for mapping in group]
        self._places = places
        there = {(one.path, one.bias) for one in self.objects}
        new = [Object(one) for one in loaded.read(self.pid, fresh) if (one.path, one.bias) not in there] if fresh else []
        for one in new:
            self.tables.add(one.there)
        known = [one for one in new if one.slots is not None]
        self.objects = sorted([*(one for one in self.objects if one not in gone), *known], key=lambda one: one.start)
        self._starts = [one.start for one in self.objects]
        return new, gone

    def home(self, address: int) -> Object | None:
        """The object that an address is in."""
        at = bisect_right(self._starts, address) - 1
        return self.objects[at] if at >= 0 and address < self.objects[at].end else None

    def words(self, one: Object) -> dict[int, int]:
        """What its slots hold now."""
        return self.memory.words(one.watched)

    def changed(self, one: Object) -> Iterator[tuple[int, int, int]]:
        """Of the slots that nobody but the linker may write, those that hold something else: address, before, now."""
        for span in one.spans:
            data = self.memory.read(span[0], span[-1] + 8 - span[0])
            if data == one.seen.get(span[0]) or len(data) < span[-1] + 8 - span[0]:
                continue
            one.seen[span[0]] = data
            for address in span:
                now = int.from_bytes(data[address - span[0] : address - span[0] + 8], "little")
                before = one.held.get(address, now)
                if now != before:
                    yield address, before, now

    def got(self, one: Object) -> tuple[int, int]:
        """The link_map and the resolver, as the linker put them into words 1 and 2 of its GOT; zeros if it has not."""
        if not one.slots or not one.slots.pltgot:
            return 0, 0
        data = self.memory.read(one.slots.pltgot + one.bias, WORDS.size)
        _, link_map, resolver = WORDS.unpack(data) if len(data) == WORDS.size else (0, 0, 0)
        return link_map, resolver

    def target(self, address: int, wanted: str = "", version: str = "") -> tuple[str, str, int]:
        """What lies at an address: object, symbol, and how far behind it; of several names there the wanted one."""
        if not address:
            return "", "", 0
        one = self.home(address)
        if one is None:
            return self._elsewhere(address)
        offset = address - one.bias
        names = [found for found in self.tables.exports(one.path, wanted) if found.value == offset] if wanted else ()
        if names:
            best = names[0] if len(names) == 1 else max(names, key=lambda found: (found.version == version, found.default))
            return one.path, best.name, 0
        table = self.tables.get(one.path)
        found = table.at(offset) if table else None
        return (one.path, found.name, offset - found.value) if found else (one.path, "", offset)

    def caller(self, address: int) -> tuple[str, str, int]:
        """The same for a return address, of which few come up again and again."""
        if address not in self._callers:
            self._callers[address] = self.target(address)
        return self._callers[address]

    def _elsewhere(self, address: int) -> tuple[str, str, int]:
        mapping = maps.at(self.space, address)
        if mapping is None:
            return "", "", address
        return mapping.path or "[anonymous]", "", address - mapping.start

    def executable_path(self) -> str:
        """What /proc calls the program, whatever it is."""
        try:
            return os.readlink(f"/proc/{self.pid}/exe")
        except OSError:
            return ""

    def executable(self, address: int) -> bool:
        """True if there is code."""
        mapping = maps.at(self.space, address)
        return mapping is not None and bool(mapping.prot & PROT_EXEC)

    def odd(self, one: Object, slot: Slot, value: int) -> str:
        """What is wrong with what a bound slot holds, in words; "" if nothing is."""
        if slot.type == ABS64:
            value = value - slot.addend & WORD
        if not value:
            return "" if slot.weak else "it has been set to 0"
        home = self.home(value)
        named = self.tables.exports(home.path, slot.symbol) if home else []
        for found in named:
            if home and found.value + home.bias == value:
                return ""
        mapping = maps.at(self.space, value)
        place = home.path.rpartition("/")[2] if home else (mapping.path or "anonymous memory") if mapping else "nothing"
        if slot.type in (JUMP_SLOT, IRELATIVE) and not (mapping and mapping.prot & PROT_EXEC):
            return f"it points to no code: {place} is at {value:#x}"
        if mapping and mapping.path == VDSO:
            return ""
        if slot.type == IRELATIVE:
            return "" if home is one else f"it points out of its object, to {place}"
        if home is None:
            return f"it points to {place}, which exports no {slot.symbol}"
        table = self.tables.get(home.path)
        there = table.at(value - home.bias) if table else None
        public = there is not None and there.binding != "LOCAL" and there.value == value - home.bias and there.kind == "FUNC"
        if table is None or (not public and any(found.kind == "IFUNC" for found in named)):
            return ""  # nothing is known of it; or it is what an IFUNC's resolver has picked
        return f"{place} exports no {slot.symbol} there"


def _spans(addresses: list[int]) -> list[list[int]]:
    """Slots that are read together."""
    spans: list[list[int]] = []
    for address in addresses:
        if spans and address - spans[-1][-1] <= NEAR:
            spans[-1].append(address)
        else:
            spans.append([address])
    return spans
