"""Which phase of its life a process is in, and whose code made a call."""

from __future__ import annotations

LOADER, INTERPRETER, STARTUP, PROGRAM, EXIT = "loader", "interpreter", "startup", "program", "exit"
PROT_EXEC, MAP_ANONYMOUS = 4, 0x20
STATEFUL = frozenset(("mmap", "munmap", "mprotect", "mremap", "execve", "execveat", "exit", "exit_group", "rt_sigreturn"))


class Process:
    """The executable mappings of a process, newest first, and its phase."""

    def __init__(self, phase: str = PROGRAM, maps: list[tuple[int, int, str, int]] | None = None) -> None:
        self.phase, self._maps, self._known = phase, maps or [], dict[int, str]()

    def copy(self) -> Process:
        """What a forked child begins with."""
        return Process(self.phase, list(self._maps))

    def read(self, text: bytes) -> None:
        """From /proc/PID/maps."""
        self._maps, self._known = [], {}
        for line in text.decode(errors="surrogateescape").splitlines():
            span, prot, offset, _, _, *name = line.split(None, 5)
            if "x" in prot:
                start, end = (int(part, 16) for part in span.split("-"))
                self._maps.append((start, end, name[0] if name else "[anon]", int(offset, 16)))

    def mapped(self, start: int, size: int, prot: int, name: str, offset: int = 0) -> None:
        """mmap has returned."""
        if prot & PROT_EXEC:
            self._maps.insert(0, (start, start + size, name, offset))
            self._known = {}

    def unmapped(self, start: int, size: int) -> None:
        """munmap has returned."""
        kept = [item for item in self._maps if item[1] <= start or item[0] >= start + size]
        if len(kept) != len(self._maps):
            self._maps, self._known = kept, {}

    def object_at(self, address: int) -> str:
        """The file whose code is at an address, "" if that is not known."""
        found = self._known.get(address)
        if found is None:
            found = next((name for start, end, name, _ in self._maps if start <= address < end), "")
            self._known[address] = found
        return found

    def place(self, address: int) -> tuple[str, int] | None:
        """The file, and where in it the code at an address is; None if none is mapped there."""
        at = next((item for item in self._maps if item[0] <= address < item[1]), None)
        return (at[2], address - at[0] + at[3]) if at else None
