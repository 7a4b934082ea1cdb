"""Pointing slots to another function: what would be written where, and what speaks against it."""

from __future__ import annotations

import re
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from fnmatch import fnmatchcase

from ...elf.relocations import GLOB_DAT, JUMP_SLOT, Slot
from ...elf.symbols import Symbol, Symbols
from ...errors import SessionError
from ...proc.loaded import Loaded
from ...values import Value
from .listing import BOUND, NOT_YET, ODD, UNRESOLVED, Entry, Listing, Target, View

FUNCTIONS = ("FUNC", "NOTYPE")
FORM = re.compile(r"(?:(?P<object>[^:=@]+):)?(?P<symbol>[^:=@]+)(?:@@?(?P<version>[^:=@]+))?")
HOW = "SYMBOL=SYMBOL or SYMBOL=0xADDRESS, each SYMBOL as [OBJECT:]NAME[@VERSION]"
PROT_EXEC = 4


class Name(Value):
    """A symbol, as asked for; `object` is a pattern for a path or file name, "" for none given."""

    object: str
    symbol: str
    version: str

    def matches(self, path: str, default: str) -> bool:
        """True for an object that is meant: `default` if none was given."""
        return _is(self.object, path) if self.object else path == default

    def fits(self, slot: Slot, path: str, default: str) -> bool:
        """True for a slot that is meant, of the object at a path."""
        return slot.symbol == self.symbol and self.version in ("", slot.version) and self.matches(path, default)


class Request(Value):
    """Which symbol's slots are to point where: to a symbol, or (then `target` is None) to an address."""

    source: Name
    target: Name | None
    address: int


class Change(Value):
    """One slot: what it holds, what it is to hold, and what that is. `doubts` are reasons to refuse it."""

    entry: Entry
    after: int
    target: Target | None
    doubts: tuple[str, ...]


def parse(text: str) -> Request:
    """From the command line. Raises ValueError that says what the form is."""
    left, equals, right = text.partition("=")
    if not equals or not left or not right:
        raise ValueError(f"--redirect {text}: {HOW}")
    if re.fullmatch(r"0[xX][0-9a-fA-F]+|[0-9]+", right):
        address = int(right, 0)
        if not 0 < address < 1 << 64:
            raise ValueError(f"--redirect {text}: {right} is no address")
        return Request(_name(left, text), None, address)
    return Request(_name(left, text), _name(right, text), 0)


def _name(part: str, text: str) -> Name:
    try:
        return name(part)
    except ValueError as error:
        raise ValueError(f"--redirect {text}: {error}: {HOW}") from None


def name(part: str) -> Name:
    """From [OBJECT:]NAME[@VERSION]. Raises ValueError."""
    match = FORM.fullmatch(part)
    if not match:
        raise ValueError(f"{part!r} is no symbol")
    return Name(match["object"] or "", match["symbol"], match["version"] or "")


def plan(
    request: Request, found: Listing, loaded: Sequence[Loaded], program: Loaded, tables: Dict[str, Symbols], view: View
) -> tuple[Change, ...]:
    """The slots to change: those of the `program` itself, unless an object is named. Raises SessionError if there are none,
    or if the target is not to be found."""
    after = _address(request.target, loaded, program, tables) if request.target else request.address
    entries = _sources(request.source, found, program)
    about, target = _doubts(after, view), view.target(after)
    return tuple(Change(one, after, target, (*about, *_refusals(one, after))) for one in entries)


def _sources(name: Name, found: Listing, program: Loaded) -> list[Entry]:
    named = [one for one in found.entries if one.slot.symbol == name.symbol and one.slot.type in (JUMP_SLOT, GLOB_DAT)]
    if name.version:
        named = [one for one in named if one.slot.version == name.version]
    mine = [one for one in named if name.matches(one.object, program.path)]
    if mine:
        return mine
    others = ", ".join(sorted({one.object.rpartition("/")[2] for one in named}))
    where = name.object or program.path
    hint = f"; {others} has: say OBJECT:{name.symbol}" if others else ""
    raise SessionError(f"{where} has no slot for {name.symbol}{'@' + name.version if name.version else ''}{hint}")


def _address(name: Name, loaded: Sequence[Loaded], program: Loaded, tables: Dict[str, Symbols]) -> int:
    """Where a symbol is: the program's own, or the only one of that name that a library has."""
    known: dict[int, tuple[Loaded, Symbol]] = {}
    for one in sorted(loaded, key=lambda one: one is not program):
        if not _is(name.object, one.path) or one.path not in tables:
            continue
        symbol = tables[one.path].named(f"{name.symbol}@{name.version}" if name.version else name.symbol)
        if symbol:
            known.setdefault(symbol.value + one.bias, (one, symbol))
            if one is program:
                break
    if not known:
        raise SessionError(f"no loaded file{' like ' + name.object if name.object else ''} has a symbol {name.symbol}")
    shared = {value: pair for value, pair in known.items() if pair[1].binding != "LOCAL"} or known
    if len(shared) > 1:
        files = ", ".join(one.path.rpartition("/")[2] for one, _ in shared.values())
        raise SessionError(f"{name.symbol} is in {files}: say which, as OBJECT:{name.symbol}")
    [(value, (_, symbol))] = shared.items()
    if symbol.kind == "IFUNC":
        raise SessionError(f"{name.symbol} is an IFUNC: its address is that of a resolver; give the implementation's")
    return value


def _doubts(address: int, view: View) -> list[str]:
    """What is wrong with the target."""
    mapping, owner = view.home(address)
    if mapping is None:
        return [f"nothing is mapped at {address:#x}"]
    if not mapping.prot & PROT_EXEC:
        return [f"{address:#x} is not executable: it is in {mapping.path or 'anonymous memory'}"]
    table = view.tables.get(owner.path) if owner else None
    symbol = table.at(address - owner.bias) if owner and table else None
    if owner and symbol is None:
        return [f"there is no function's symbol at {address:#x}"]
    if owner and symbol and (symbol.kind not in FUNCTIONS or address != symbol.value + owner.bias):
        return [
            f"{address:#x} is {address - owner.bias - symbol.value:#x} bytes into {symbol.label}, not where a function begins"
        ]
    return []


def _refusals(one: Entry, after: int) -> list[str]:
    """What is wrong with changing this slot."""
    found = []
    if one.state == NOT_YET:
        found.append("the dynamic linker has not come to it, and would write it again: go on to main")
    elif one.state not in (BOUND, UNRESOLVED):
        found.append(
            f"it holds what the dynamic linker did not write ({one.why})" if one.state == ODD else f"it is {one.state}"
        )
    if not one.writable:
        found.append("it is read-only (RELRO)")
    if one.value == after:
        found.append("it points there already")
    return found


def _is(pattern: str, path: str) -> bool:
    return not pattern or fnmatchcase(path, pattern) or fnmatchcase(path.rpartition("/")[2], pattern)
