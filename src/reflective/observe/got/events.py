"""What watching tells: one frozen value an event. Times are CLOCK_MONOTONIC in ns, addresses ints of the watched process."""

from __future__ import annotations

from ...values import Value

LAZY, STARTUP, IRELATIVE, COPY, DLOPEN, WRITE = HOWS = ("lazy", "startup", "irelative", "copy", "dlopen", "write")


class Event(Value):
    """Something that was seen in a task."""

    pid: int
    tid: int
    t_ns: int


class Exec(Event):
    """The process has become a program."""

    path: str


class Fork(Event):
    """The process made another; `shared`: in the same memory, by vfork."""

    child: int
    shared: bool


class Object(Event):
    """A file with slots is there: `lazy` of its `slots` are bound by their first call; `note` says what can be seen of it."""

    object: str
    bias: int
    binding: str
    relro: str
    slots: int
    lazy: int
    weak: int
    note: str


class Relro(Event):
    """The linker makes an object's relocated data read-only: [start, end)."""

    object: str
    start: int
    end: int


class Resolver(Event):
    """The function that lazily bound calls go through has been found: its entry, and the jump by which it leaves."""

    object: str
    entry: int
    jump: int


class Bind(Event):
    """A slot has got its value, in three states: `file` on disk, `before` as relocated (mostly to its PLT stub), `after`.

    `caller` is the return address of the call that made the linker bind, for the lazy, `caller_line` its source line where its
    object carries DWARF; `took_ns` from the resolver's entry to
    its jump, as watched. `target_offset` counts from the symbol, or from the object where none is known.
    """

    how: str
    object: str
    symbol: str
    version: str
    type: str
    slot: int
    section: str
    file: int
    before: int
    after: int
    target_object: str
    target_symbol: str
    target_offset: int
    caller: int | None
    caller_object: str
    caller_symbol: str
    caller_offset: int
    took_ns: int | None
    caller_line: str = ""


class Frame(Value):
    """A return address on the stack."""

    address: int
    object: str
    symbol: str
    offset: int


class Write(Event):
    """A slot holds what the linker would not have put there, or was changed by something else: `why` in words.

    `noticed` says at which stop. Of a guarded slot that is the write itself: `writer` is the storing instruction's address,
    `instruction` its text, or its bytes without a disassembler, `stack` its callers, the innermost first. Else `writer` is
    None, and the write came after `since_ns`, when the slot was last seen intact, which was `since`.
    """

    object: str
    symbol: str
    version: str
    slot: int
    section: str
    before: int
    after: int
    target_object: str
    target_symbol: str
    target_offset: int
    why: str
    noticed: str
    since: str
    since_ns: int
    writer: int | None
    writer_object: str
    writer_symbol: str
    writer_offset: int
    instruction: str
    stack: tuple[Frame, ...]


class Dlopen(Event):
    """An object was loaded after the start."""

    object: str
    bias: int


class Dlclose(Event):
    """An object is gone."""

    object: str
    bias: int


class Note(Event):
    """What can't be watched, and why."""

    words: str


class Left(Value):
    """An object at its process's end: how many of its lazily bound slots were never bound."""

    object: str
    lazy: int
    unbound: int


class Exit(Event):
    """The process has ended, by exit or by a signal."""

    status: int | None
    signal: int | None
    objects: tuple[Left, ...]


class Detach(Event):
    """A task runs on, unwatched."""
