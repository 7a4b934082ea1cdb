"""`reflective addr`: what is at an address of a process."""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence

from ..elf import symbols
from ..elf.image import PAGE
from ..elf.lines import Source, sources
from ..errors import LoadError, ReflectiveError, SessionError
from ..observe import address as observe
from ..observe.address import VDSO, Loaded, Place
from ..observe.space import Line, lines
from ..proc import maps, objects, pages, threads
from ..proc.smaps import Usage, Used
from ..views import json
from .exec import complain

FAILED = 1
EXECUTE = 4  # PROT_EXEC


def show(args: argparse.Namespace) -> int:
    """Prints what is at each address; returns the exit status."""
    targets: list[tuple[str, int]] = []
    problems: list[str] = []
    found: list[Place] = []
    try:
        process = Process(args.pid)
        for word in args.addresses:
            try:
                targets += process.targets(word)
            except SessionError as error:
                problems.append(str(error))
        found = process.places(targets)
    except ReflectiveError as error:
        problems.append(str(error))
    _print(args, found)
    complain(*problems)
    return FAILED if problems else 0


def _print(args: argparse.Namespace, found: list[Place]) -> None:
    if args.json:
        for place in found:
            print(json.address(args.pid, place))
    elif found:
        from ..views import addr as view
        from ..views import text

        text.write(view.places(found), args.color)


class Process:
    """A process, as it is now: its address space, read once, and the ELF files in it, each read when it is asked for."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.space = maps.check_space(pid, maps.read(pid))
        self.images = objects.images(pid, self.space)
        self.lines = lines([Used(mapping, Usage()) for mapping in self.space], self.images)
        self._loaded: dict[tuple[str, int], Loaded] = {}

    def targets(self, word: str) -> list[tuple[str, int]]:
        """The word, with each address that it means. Raises SessionError for a name that means none."""
        value = observe.number(word)
        if value is None and objects.narrow(self.pid):
            raise SessionError(
                f"{word}: process {self.pid} runs a 32-bit program, whose symbols are not read: ask gdb -p {self.pid}"
            )
        found = [value] if value is not None else observe.named(word, self._everything())
        if not all(0 <= one < 1 << 64 for one in found):
            raise SessionError(f"{word}: an address has 64 bits")
        return [(word, one) for one in found]

    def places(self, targets: Sequence[tuple[str, int]]) -> list[Place]:
        """What is at these addresses. Raises SessionError if the process ends meanwhile."""
        pointers = threads.stack_pointers(self.pid)
        return self._with_sources([self._place(word, value, pointers) for word, value in targets])

    def _place(self, word: str, value: int, pointers: dict[int, int]) -> Place:
        line = observe.find(self.lines, value)
        place = observe.place(word, value, self.lines, self.images, self._of(line) if line else None, pointers)
        if line is None:
            return place
        page = pages.page(pages.entries(self.pid, value & -PAGE, (value & -PAGE) + PAGE)[0])
        return place.replace(page=page, mapped=pages.mapped(page.frame))

    def _everything(self) -> list[Loaded]:
        """The executable and every other ELF file, the executable first: dynamic linking looks there first."""
        found = {one.name: one for one in (self._of(line) for line in self.lines) if one}
        program = objects.executable(self.pid)
        return sorted(found.values(), key=lambda one: one.name != program)

    def _of(self, line: Line) -> Loaded | None:
        if line.segment < 0 and line.object != VDSO:
            return None
        key = (line.object, line.bias)
        if key not in self._loaded:
            self._loaded[key] = self._load(line)
        return self._loaded[key]

    def _load(self, line: Line) -> Loaded:
        if line.object == VDSO:
            image = io.BytesIO(objects.memory(self.pid, line.mapping))
            try:
                return Loaded(VDSO, line.mapping.start, symbols.read(image, VDSO), "")
            except LoadError as error:
                return Loaded(VDSO, line.mapping.start, None, error.reason)
        place = self._where(line)
        try:
            return Loaded(line.object, line.bias, symbols.of(*place), "") if place else self._unopened(line, "can't be opened")
        except LoadError as error:
            return self._unopened(line, error.reason)

    def _unopened(self, line: Line, problem: str) -> Loaded:
        return Loaded(line.object, line.bias, None, problem)

    def _where(self, line: Line) -> tuple[str, str] | None:
        """Anonymous memory behind a file's (its bss) has no path of its own."""
        mapping = next(one.mapping for one in self.lines if one.object == line.object and one.mapping.file)
        return objects.where(self.pid, mapping)

    def _with_sources(self, places: list[Place]) -> list[Place]:
        """With source lines, the line program of each file read once."""
        wanted: dict[tuple[str, str, str], list[int]] = {}
        keys: list[tuple[str, str, str] | None] = []
        for place in places:
            line = place.line
            loaded = self._of(line) if line else None
            file = self._where(line) if line and loaded and loaded.symbols and loaded.name != VDSO else None
            code = line is not None and line.mapping.prot & EXECUTE and place.link is not None
            keys.append((*file, loaded.symbols.build_id) if file and code and loaded and loaded.symbols else None)
            if keys[-1] and place.link is not None:
                wanted.setdefault(keys[-1], []).append(place.link)
        known = {key: _sources(*key, addresses) for key, addresses in wanted.items()}
        return [
            place.replace(source=known[key][0].get(place.link or 0), problem=place.problem or known[key][1]) if key else place
            for place, key in zip(places, keys, strict=True)
        ]


def _sources(path: str, root: str, build_id: str, addresses: list[int]) -> tuple[dict[int, Source], str]:
    """What is known, and what stood in the way."""
    try:
        return sources(path, build_id, addresses, root), ""
    except LoadError as error:
        return {}, error.reason
