"""What the state of threads is read from that start programs from templates: struct refl_kept (csrc/zygote/state.h)."""

from __future__ import annotations

import os
from _thread import _local, get_ident, get_native_id
from weakref import ref

from ._core import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MOST = 8  # threads of a template: some 18 descriptors each


class Kept:
    """Descriptors of one thread, who alone can use them; closed with the last template that has them."""

    def __init__(self) -> None:
        self.thread = get_native_id()
        self._memory = ffi.new("uint8_t[]", lib.refl_kept_size())
        self.struct = ffi.cast("struct refl_kept *", self._memory)
        if lib.refl_keep(self.struct):
            self.struct = ffi.NULL

    def __del__(self) -> None:
        if self.struct:
            lib.refl_drop(self.struct)

    @property
    def over(self) -> bool:
        """Whether the thread has ended."""
        return not os.path.exists(f"/proc/self/task/{self.thread}")


class Threads:
    """The threads that have used one template."""

    def __init__(self) -> None:
        self._known: dict[int, Kept] = {}

    def current(self) -> Any:
        """For the calling thread; NULL if there are too many: its state is then read anew each time, in some 70 µs more."""
        kept = _of_this_thread()
        if kept is None:
            if len(self._known) >= MOST:
                self._known = {ident: one for ident, one in self._known.items() if not one.over}
            if len(self._known) >= MOST:
                return ffi.NULL
            kept = Kept()
            _thread.kept = ref(kept)
        self._known[get_ident()] = kept
        return kept.struct


_thread = _local()


def _of_this_thread() -> Kept | None:
    """What another template has already."""
    known: Kept | None = getattr(_thread, "kept", lambda: None)()
    return known
