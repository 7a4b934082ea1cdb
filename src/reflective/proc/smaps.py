"""/proc/PID/smaps as values: how much of each mapping is in memory, and who else has it."""

from __future__ import annotations

from ..values import Value
from . import maps
from .maps import Mapping

FIELDS = {
    b"Rss": "rss", b"Pss": "pss", b"Shared_Clean": "shared_clean", b"Shared_Dirty": "shared_dirty",
    b"Private_Clean": "private_clean", b"Private_Dirty": "private_dirty", b"Swap": "swap",
}  # fmt: skip


class Usage(Value):
    """Memory of a mapping, in bytes. `pss`: each page divided by the number of its users (man 5 proc_pid_smaps)."""

    rss: int = 0
    pss: int = 0
    shared_clean: int = 0
    shared_dirty: int = 0
    private_clean: int = 0
    private_dirty: int = 0
    swap: int = 0

    @property
    def shared(self) -> int:
        """Bytes that another process maps as well."""
        return self.shared_clean + self.shared_dirty


class Used(Value):
    """A mapping and its memory."""

    mapping: Mapping
    usage: Usage


def read(pid: int) -> tuple[Used, ...]:
    """The address space with its memory. Raises SessionError."""
    return parse(maps.content(pid, "smaps"))


def parse(text: bytes) -> tuple[Used, ...]:
    """From the file's content."""
    found: list[Used] = []
    mapping: Mapping | None = None
    values: dict[str, int] = {}
    for line in text.splitlines():
        name, colon, rest = line.partition(b":")
        if colon and name in FIELDS:
            values[FIELDS[name]] = int(rest.split()[0]) * 1024
        elif b"-" in name.split(b" ")[0]:
            if mapping:
                found.append(Used(mapping, Usage(**values)))
            mapping, values = maps.mapping(line), {}
    return (*found, Used(mapping, Usage(**values))) if mapping else ()
