"""How strace writes strings, flags, numbers: against what strace itself prints for the same, in a line of a comment each."""

from __future__ import annotations

import struct

import pytest

from reflective.trace import decode
from reflective.trace.decode import base, common, file, memory, process, signal, socket
from reflective.trace.decode.base import Call


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain", "plain"),
        (b'"\\', '\\"\\\\'),
        (b"\t\n\v\f\r", "\\t\\n\\v\\f\\r"),
        (b"\x7fELF\x02\x01\x01\x00", "\\177ELF\\2\\1\\1\\0"),
        (b"\x001", "\\0001"),  # a digit follows: all three
        (b"\x008", "\\08"),  # no octal digit
        (b"\xff", "\\377"),
        ("ä".encode(), "\\303\\244"),
    ],
)
def test_escapes_are_as_short_as_the_next_character_allows(data: bytes, text: str) -> None:
    assert base.escape(data) == text


def test_strings_end_in_dots_only_beyond_the_limit() -> None:
    assert base.quoted(b"x" * 32, 32) == '"' + "x" * 32 + '"'
    assert base.quoted(b"x" * 33, 32) == '"' + "x" * 32 + '"...'


def test_flags_have_names_and_a_rest() -> None:
    table = {1: "A", 2: "B", 6: "C"}
    assert base.flags(3, table, "X") == "A|B"
    assert base.flags(9, table, "X") == "A|0x8"
    assert base.flags(8, table, "X") == "0x8 /* X */"
    assert base.flags(0, table, "X") == "0"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "O_RDONLY"),
        (0o1102, "O_RDWR|O_CREAT|O_TRUNC"),
        (0o2200000, "O_RDONLY|O_CLOEXEC|O_DIRECTORY"),
        (0o20200002, "O_RDWR|O_TMPFILE"),
        (0o4010001, "O_WRONLY|O_SYNC"),
    ],
)
def test_open_flags(value: int, text: str) -> None:
    assert file.open_flags(value) == text


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (0o100644, "S_IFREG|0644"),
        (0o041777, "S_IFDIR|S_ISVTX|0777"),
        (0o020000, "S_IFCHR|000"),
        (0o104755, "S_IFREG|S_ISUID|0755"),
    ],
)
def test_modes(mode: int, text: str) -> None:
    assert file.mode_text(mode) == text


def test_signal_sets() -> None:
    assert signal.signal_set(bytes(8)) == "[]"
    assert signal.signal_set(struct.pack("<Q", 1 << 16 | 2)) == "[INT CHLD]"
    assert signal.signal_set(struct.pack("<Q", (1 << 64) - 1 & ~(3 << 31))) == "~[RTMIN RT_1]"


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0x300, "{WIFEXITED(s) && WEXITSTATUS(s) == 3}"),
        (9, "{WIFSIGNALED(s) && WTERMSIG(s) == SIGKILL}"),
        (139, "{WIFSIGNALED(s) && WTERMSIG(s) == SIGSEGV && WCOREDUMP(s)}"),
        (0x137F, "{WIFSTOPPED(s) && WSTOPSIG(s) == SIGSTOP}"),
    ],
)
def test_wait_status(status: int, text: str) -> None:
    assert process.wait_status(status) == text


def test_socket_addresses() -> None:
    assert socket.socket_address(b"\1\0/run/x\0") == '{sa_family=AF_UNIX, sun_path="/run/x"}'
    assert socket.socket_address(b"\1\0\0abc") == '{sa_family=AF_UNIX, sun_path=@"abc"}'
    inet = struct.pack("<H", 2) + struct.pack(">H", 80) + bytes([127, 0, 0, 1]) + bytes(8)
    assert socket.socket_address(inet) == '{sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("127.0.0.1")}'


def written(name: str, *args: int, pieces: dict[int, list[base.Piece]] | None = None, ret: int = 0) -> str:
    call = Call(name, (*args, *[0] * (6 - len(args))), pieces or {})
    call.ret, call.returned = ret, True
    return f"{name}({', '.join(decode.arguments(call)[1])}) = {decode.result(call)}"


def test_an_argument_that_could_not_be_read_is_its_address() -> None:
    assert written("openat", -100, 0xBAD, 0) == "openat(AT_FDCWD, 0xbad, O_RDONLY) = 0"
    assert written("stat", 0, 0) == "stat(NULL, NULL) = 0"


def test_short_structures_are_addresses_not_errors() -> None:
    broken = {2: [(base.ON_RETURN, base.BYTES, base.FAULT, 0x10, b"\0" * 20)]}
    assert written("newfstatat", 3, 0, 0x10, 0, pieces=broken) == "newfstatat(3, NULL, 0x10, 0) = 0"


def test_mode_is_shown_only_if_a_file_may_be_made() -> None:
    assert written("open", 0, 0o100, 0o644) == "open(NULL, O_RDONLY|O_CREAT, 0644) = 0"
    assert written("open", 0, 0, 0o644) == "open(NULL, O_RDONLY) = 0"


def test_results_in_the_base_that_strace_uses() -> None:
    assert written("mmap", 0, 4096, 0, 0x22, -1, 0, ret=0x7000) == (
        "mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7000"
    )
    assert written("umask", 0o22, ret=0o22) == "umask(022) = 022"
    assert written("fcntl", 1, 3, ret=0x8002) == "fcntl(1, F_GETFL) = 0x8002 (flags O_RDWR|O_LARGEFILE)"


def test_every_call_has_at_most_as_many_copies_as_the_tracer_makes() -> None:
    assert max(len(decode.copies(name)) for name in decode.SIGNATURES) <= 16


def test_every_decoder_writes_arguments_of_any_value() -> None:
    """No register value, and no contents, makes a decoder fail."""
    sizes = (3, 513)
    contents = [
        (when, kind, 0, 1, b"\xff" * size)
        for size in sizes
        for when in (1, 2)
        for kind in (base.BYTES, base.STRING, base.IOVEC)
    ]
    contents.append((1, base.COUNT, 0, 1, b"\1" + bytes(7)))
    for name in decode.SIGNATURES:
        for value in (0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1):
            for pieces in ({}, dict.fromkeys(range(6), contents), dict.fromkeys(range(6), contents[::-1])):
                for ret in (0, 1, -2):
                    call = Call(name, (value,) * 6, pieces)
                    call.ret, call.error, call.returned = ret, ret < 0, True
                    entry, words = decode.arguments(call)
                    assert isinstance(entry, str)
                    assert all(isinstance(word, str) for word in words)
                    assert decode.result(call)


def test_zero_protection_has_a_name() -> None:
    assert memory.PROTECTION.render(Call("mprotect", (0,) * 6, {}), 2) == "PROT_NONE"
    assert common.octal_mode(0) == "000"
