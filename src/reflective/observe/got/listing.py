"""Every slot of a process as it is now: what it holds, and what that is."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from fnmatch import fnmatchcase

from ...elf.image import PAGE
from ...elf.relocations import ABS64, COPY, DTPMOD64, DTPOFF64, GLOB_DAT, IRELATIVE, JUMP_SLOT, TLSDESC, TPOFF64, TYPES, Slot
from ...elf.symbols import Symbol, Symbols
from ...proc.loaded import VDSO, Loaded
from ...proc.maps import Mapping
from ...values import Value

UNRESOLVED, BOUND, IFUNC, COPIED, UNDEFINED = "unresolved", "bound", "irelative", "copy", "undefined"
NOT_YET, TLS, SET, ODD, UNREADABLE = "not relocated", "tls", "set", "hijacked?", "unreadable"
STATES = (UNRESOLVED, BOUND, IFUNC, COPIED, UNDEFINED, TLS, SET, NOT_YET, ODD, UNREADABLE)
THREAD_LOCAL = (DTPMOD64, DTPOFF64, TPOFF64, TLSDESC)
NO_RELRO, PARTIAL, FULL = "none", "partial", "full"
PROT_WRITE, PROT_EXEC = 2, 4
WORD = (1 << 64) - 1


class Target(Value):
    """What lies at an address: `offset` bytes into the symbol, or into the object where there is no symbol."""

    object: str
    symbol: str
    offset: int


class Entry(Value):
    """A slot now. `value` and `file` are 8 bytes each (`value` is None if it can't be read); `why` says what is odd,
    or worth a word."""

    object: str
    bias: int
    slot: Slot
    address: int
    section: str
    writable: bool
    value: int | None
    state: str
    target: Target | None
    why: str

    @property
    def label(self) -> str:
        """symbol@version; of an IRELATIVE slot its resolver."""
        if self.slot.type == IRELATIVE and not self.slot.symbol:
            return f"*ABS*+{self.slot.addend:#x}"
        return f"{self.slot.symbol}@{self.slot.version}" if self.slot.version else self.slot.symbol

    @property
    def kind(self) -> str:
        """The relocation's type without its R_X86_64_."""
        return TYPES.get(self.slot.type, str(self.slot.type))


class Object(Value):
    """A loaded file. `relro` is what the file asks for; `closed` whether that is read-only by now (None: nothing to close).

    `range` is what relocation read-only covers: whole pages, [start, end). `note` says what can't be known, or isn't there.
    """

    path: str
    bias: int
    relro: str
    closed: bool | None
    range: tuple[int, int]
    bind_now: bool
    slots: int
    note: str


class Listing(Value):
    """All loaded files of a process by address, and their slots."""

    objects: tuple[Object, ...]
    entries: tuple[Entry, ...]

    def only(self, symbols: Sequence[str], objects: Sequence[str]) -> Listing:
        """Slots whose symbol, and whose object's path or file name, match one of the patterns (fnmatch), if there are any."""
        kept = tuple(one for one in self.objects if _matches(objects, one.path, one.path.rpartition("/")[2]))
        places = {(one.path, one.bias) for one in kept}
        rows = (one for one in self.entries if (one.object, one.bias) in places)
        return Listing(kept, tuple(one for one in rows if _matches(symbols, one.slot.symbol, one.label)))


def addresses(loaded: Sequence[Loaded]) -> list[int]:
    """Where all the slots are."""
    return [slot.offset + one.bias & WORD for one in loaded if one.slots for slot in one.slots.slots]


def targets(loaded: Sequence[Loaded], words: Dict[int, int]) -> list[Loaded]:
    """The files whose symbols are needed to explain what the slots hold."""
    places = Places(loaded)
    owners = {id(places.at(value)) for value in set(words.values())}
    return [one for one in loaded if id(one) in owners]


def listing(
    loaded: Sequence[Loaded], words: Dict[int, int], space: tuple[Mapping, ...], tables: Dict[str, Symbols]
) -> Listing:
    """From what is loaded, the words at `addresses(loaded)`, the maps, and the symbols of the files, by path."""
    view = View(loaded, space, tables)
    objects = tuple(_object(one, space) for one in loaded)
    return Listing(objects, tuple(entry for one in loaded for entry in _entries(one, words, view)))


class Places:
    """Which loaded file an address is in."""

    def __init__(self, loaded: Sequence[Loaded]) -> None:
        self._parts = sorted(
            (
                (load.vaddr + one.bias, load.vaddr + one.bias + load.memsz, one)
                for one in loaded
                if one.slots
                for load in one.slots.loads
            ),
            key=lambda part: part[0],
        )
        self._starts = [part[0] for part in self._parts]

    def at(self, address: int) -> Loaded | None:
        """None if it is in none's segments."""
        index = bisect_right(self._starts, address) - 1
        return self._parts[index][2] if index >= 0 and address < self._parts[index][1] else None


class View:
    """Whose an address is, by name; and who exports what."""

    def __init__(self, loaded: Sequence[Loaded], space: tuple[Mapping, ...], tables: Dict[str, Symbols]) -> None:
        self.places, self.space, self.tables = Places(loaded), space, tables
        self._starts = [mapping.start for mapping in space]
        self._exports: dict[str, dict[str, list[Symbol]]] = {}
        self._known: dict[int, tuple[Mapping | None, Loaded | None]] = {}

    def home(self, address: int) -> tuple[Mapping | None, Loaded | None]:
        """The mapping and the loaded file that an address is in."""
        if address not in self._known:
            self._known[address] = self.mapping(address), self.places.at(address)
        return self._known[address]

    def mapping(self, address: int) -> Mapping | None:
        """The mapping that an address is in."""
        index = bisect_right(self._starts, address) - 1
        return self.space[index] if index >= 0 and address < self.space[index].end else None

    def target(self, address: int) -> Target | None:
        """None if nothing is mapped there."""
        mapping, owner = self.home(address)
        if mapping is None:
            return None
        path, bias = (owner.path, owner.bias) if owner else (mapping.path, mapping.start)
        table = self.tables.get(path)
        symbol = table.at(address - bias) if table else None
        if symbol is None:
            return Target(path or "[anonymous]", "", address - bias)
        return Target(path, symbol.label, address - bias - symbol.value)

    def exports(self, path: str, name: str) -> list[Symbol]:
        """The symbols of this name that others can be bound to, all versions; a program's PLT entry too, as its address is."""
        if path not in self._exports:
            known: dict[str, list[Symbol]] = {}
            for symbol in self.tables.get(path, ()):
                if symbol.kind == "PLT" or symbol.binding != "LOCAL":
                    known.setdefault(symbol.name.removesuffix("@plt"), []).append(symbol)
            self._exports[path] = known
        return self._exports[path].get(name, [])


def _object(one: Loaded, space: tuple[Mapping, ...]) -> Object:
    slots = one.slots
    if slots is None:
        return Object(one.path, one.bias, NO_RELRO, None, (0, 0), False, 0, one.note)
    note = one.note
    if not slots.slots:
        note = "nothing to bind: it names no symbol of another file" if slots.dynamic else "static: nothing to bind"
    low = high = 0
    if slots.relro:  # glibc, elf/dl-reloc.c: _dl_protect_relro: whole pages, rounded down
        low, high = (slots.relro[0] + one.bias & -PAGE, slots.relro[0] + slots.relro[1] + one.bias & -PAGE)
    inside = [mapping for mapping in space if mapping.start < high and mapping.end > low] if low < high else []
    closed = not any(mapping.prot & PROT_WRITE for mapping in inside) if inside else None
    lazy = any(not low <= slot.offset + one.bias < high for slot in slots.slots if slot.table == "jmprel")
    relro = NO_RELRO if slots.relro is None else PARTIAL if lazy else FULL
    return Object(one.path, one.bias, relro, closed, (low, high), slots.bind_now, len(slots.slots), note)


def _entries(one: Loaded, words: Dict[int, int], view: View) -> list[Entry]:
    if one.slots is None:
        return []
    # Until its relocation every slot holds what the file does.
    relocated = any(words.get(slot.offset + one.bias & WORD) != slot.file for slot in one.slots.slots)
    found = []
    for slot in one.slots.slots:
        address = slot.offset + one.bias & WORD
        place = view.mapping(address)
        value = words.get(address)
        state, why = (UNREADABLE, "") if value is None else _state(one, slot, value, relocated, view)
        target = _target(slot, value, view) if value and state in (UNRESOLVED, BOUND, IFUNC, SET, ODD) else None
        writable = place is not None and bool(place.prot & PROT_WRITE)
        section = one.slots.section(slot.offset)
        found.append(Entry(one.path, one.bias, slot, address, section, writable, value, state, target, why))
    return found


def _target(slot: Slot, value: int, view: View) -> Target | None:
    """What lies there; of the names that it has there, the slot's own, in its own version if that is one of them."""
    _, owner = view.home(value)
    names = [one for one in view.exports(owner.path, slot.symbol) if one.value + owner.bias == value] if owner else []
    best = max(names, key=lambda one: (one.version == slot.version, one.default), default=None)
    return Target(owner.path, best.label, 0) if owner and best and best.kind != "PLT" else view.target(value)


def _state(one: Loaded, slot: Slot, value: int, relocated: bool, view: View) -> tuple[str, str]:
    """The state, and what is odd about it."""
    if slot.stub and value == slot.stub + one.bias & WORD:
        return UNRESOLVED, ""
    if not relocated or (value == slot.file and value != 0 and one.bias):
        return NOT_YET, ""
    if slot.type == COPY:
        return COPIED, ""
    if slot.type in THREAD_LOCAL:
        return TLS, ""
    if slot.type == IRELATIVE:
        return _picked(one, value, view)
    state, why = _bound(slot, value, view) if slot.type in (ABS64, GLOB_DAT, JUMP_SLOT) else (BOUND, "")
    if state == ODD and slot.type == ABS64 and not _closed(one, slot):
        return SET, ""  # no slot of the GOT, but a variable whose first value has a relocation
    return state, why


def _closed(one: Loaded, slot: Slot) -> bool:
    relro = one.slots.relro if one.slots else None
    return relro is not None and relro[0] & -PAGE <= slot.offset < (relro[0] + relro[1] & -PAGE)


def _picked(one: Loaded, value: int, view: View) -> tuple[str, str]:
    """An implementation lies in the object whose resolver picked it, or in the vdso."""
    if not value:  # glibc has resolvers that are run for what they do: sysdeps/x86/cacheinfo.c
        return IFUNC, "its resolver picked nothing"
    mapping, owner = view.home(value)
    if mapping is None or not mapping.prot & PROT_EXEC:
        return ODD, "it points to no code"
    if owner is not one and mapping.path != VDSO:
        return ODD, f"it points out of {_name(one.path)}, whose resolver picks it"
    return IFUNC, ""


def _bound(slot: Slot, value: int, view: View) -> tuple[str, str]:
    start = value - (slot.addend if slot.type == ABS64 else 0) & WORD
    if not start:
        return (UNDEFINED, "") if slot.weak else (NOT_YET, "")
    if not slot.symbol:
        return BOUND, ""
    mapping, owner = view.home(start)
    if mapping is None and owner is None:
        return ODD, "nothing is mapped there"
    if slot.type == JUMP_SLOT and (mapping is None or not mapping.prot & PROT_EXEC):
        return ODD, "it points to no code"
    path, bias = (owner.path, owner.bias) if owner else (mapping.path if mapping else "", mapping.start if mapping else 0)
    named = view.exports(path, slot.symbol)
    if any(symbol.value + bias == start for symbol in named):
        return BOUND, ""
    if any(symbol.kind == "IFUNC" for symbol in named) or (path == VDSO and _is_ifunc(slot.symbol, view)):
        return BOUND, ""  # what its resolver picked
    if owner and path not in view.tables:
        return BOUND, ""  # nothing is known of it
    return ODD, f"{_name(path) or 'this memory'} exports no {slot.symbol} at that address"


def _is_ifunc(name: str, view: View) -> bool:
    return any(symbol.kind == "IFUNC" for path in view.tables for symbol in view.exports(path, name))


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _matches(patterns: Sequence[str], *texts: str) -> bool:
    return not patterns or any(fnmatchcase(text, pattern) for text in texts for pattern in patterns)
