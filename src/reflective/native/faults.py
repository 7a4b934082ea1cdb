"""The page faults of one program, seen by perf: where it has been."""

from __future__ import annotations

from ._core import ffi, lib

MOST = 4096  # the ring has no room for more


class Faults:
    """Those of the program that `struct` was opened for (csrc/host/faults.c), if it could be."""

    def __init__(self) -> None:
        self.struct = ffi.new("struct refl_faults *", {"fd": -1})

    def __bool__(self) -> bool:
        return bool(self.struct.fd >= 0)

    @property
    def ended(self) -> bool:
        """Whether the program has ended."""
        return bool(lib.refl_faults_ended(self.struct))

    def pages(self) -> set[int]:
        """The addresses of the pages."""
        found = ffi.new("uint64_t[]", MOST)
        return set(found[0 : lib.refl_faults_pages(self.struct, found, MOST)])

    def close(self) -> None:
        """No more of it."""
        lib.refl_faults_close(self.struct)
