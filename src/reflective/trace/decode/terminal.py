"""ioctl: terminals, and what any descriptor takes."""

from __future__ import annotations

import struct

from .base import (
    BY_ONE,
    BYTES,
    ON_ENTRY,
    ON_RETURN,
    Call,
    Kind,
    Signature,
    bits,
    choice,
    fields,
    flags,
    hexadecimal,
    numbered,
    signed,
)
from .common import FD

NAMES = {
    0x5401: "TCGETS", 0x5402: "SNDCTL_TMR_START or TCSETS", 0x5403: "SNDCTL_TMR_STOP or TCSETSW",
    0x5404: "SNDCTL_TMR_CONTINUE or TCSETSF", 0x5409: "TCSBRK", 0x540A: "TCXONC", 0x540B: "TCFLSH", 0x540C: "TIOCEXCL",
    0x540D: "TIOCNXCL", 0x540E: "TIOCSCTTY", 0x540F: "TIOCGPGRP", 0x5410: "TIOCSPGRP", 0x5411: "TIOCOUTQ", 0x5412: "TIOCSTI",
    0x5413: "TIOCGWINSZ", 0x5414: "TIOCSWINSZ", 0x541B: "FIONREAD", 0x5421: "FIONBIO", 0x5422: "TIOCNOTTY", 0x5429: "TIOCGSID",
    0x5450: "FIONCLEX", 0x5451: "FIOCLEX", 0x5452: "FIOASYNC", 0x80045430: "TIOCGPTN", 0x40045431: "TIOCSPTLCK",
    0x5441: "TIOCGPTPEER", 0x40049409: "BTRFS_IOC_CLONE or FICLONE", 0x80086601: "FS_IOC_GETFLAGS", 0x802C542A: "TCGETS2",
}  # fmt: skip
TCGETS, SETS, GET_SIZE, SET_SIZE = 0x5401, (0x5402, 0x5403, 0x5404), 0x5413, 0x5414
NO_ARGUMENT, NUMBER, NUMBERS_IN, NUMBERS_OUT = (
    (0x5450, 0x5451, 0x540C, 0x540D, 0x5422), (0x5409, 0x540E, 0x40049409), (0x5410, 0x5421, 0x5452, 0x40045431),
    (0x540F, 0x5411, 0x541B, 0x5429, 0x80045430),
)  # fmt: skip
INPUT = bits("IGNBRK BRKINT IGNPAR PARMRK INPCK ISTRIP INLCR IGNCR ICRNL IUCLC IXON IXANY IXOFF IMAXBEL IUTF8")
OUTPUT = bits("OPOST OLCUC ONLCR OCRNL ONOCR ONLRET OFILL OFDEL")
DELAYS = (
    (0o400, 8, "NL"), (0o3000, 9, "CR"), (0o14000, 11, "TAB"), (0o20000, 13, "BS"), (0o40000, 14, "VT"), (0o100000, 15, "FF"),
)  # fmt: skip
CONTROL = {0o100: "CSTOPB", 0o200: "CREAD", 0o400: "PARENB", 0o1000: "PARODD", 0o2000: "HUPCL", 0o4000: "CLOCAL",
           0x40000000: "CMSPAR", 0x80000000: "CRTSCTS"}  # fmt: skip
SPEEDS = numbered("B0 B50 B75 B110 B134 B150 B200 B300 B600 B1200 B1800 B2400 B4800 B9600 B19200 B38400") | numbered(
    "B57600 B115200 B230400 B460800 B500000 B576000 B921600 B1000000 B1152000 B1500000 B2000000 B2500000 B3000000 B3500000 "
    "B4000000", 0o10001,
)  # fmt: skip
LOCAL = {1: "ISIG", 2: "ICANON", 4: "XCASE", 8: "ECHO", 16: "ECHOE", 32: "ECHOK", 64: "ECHONL", 128: "NOFLSH",
         0x8000: "IEXTEN", 0x200: "ECHOCTL", 0x400: "ECHOPRT", 0x800: "ECHOKE", 0x1000: "FLUSHO", 0x100: "TOSTOP",
         0x4000: "PENDIN", 0x10000: "EXTPROC"}  # fmt: skip
QUEUES = numbered("TCIFLUSH TCOFLUSH TCIOFLUSH")
FLOWS = numbered("TCOOFF TCOON TCIOFF TCION")
TERMIOS = 36  # bytes


def _output(value: int) -> str:
    delays = []
    for mask, shift, name in DELAYS:
        delays.append("XTABS" if value & mask == 0o14000 else f"{name}{(value & mask) >> shift}")
    rest = value & 0o377
    return "|".join([*delays, *([flags(rest, OUTPUT, "O???")] if rest else [])])


def _control(value: int) -> str:
    speed, size, rest = SPEEDS.get(value & 0o10017, hex(value & 0o10017)), f"CS{5 + (value >> 4 & 3)}", value & ~0o10077
    return "|".join([speed, size, *([flags(rest, CONTROL, "C???").partition(" ")[0]] if rest else [])])


def _mode(data: bytes) -> str:
    given, out, control, local = struct.unpack_from("<4I", data)
    known = {"c_iflag": flags(given, INPUT, "I???"), "c_oflag": _output(out), "c_cflag": _control(control)}
    return fields(**known, c_lflag=flags(local, LOCAL, "L???"))[:-1] + ", ...}"


def _size(data: bytes) -> str:
    row, column, xpixel, ypixel = struct.unpack_from("<4H", data)
    return fields(ws_row=str(row), ws_col=str(column), ws_xpixel=str(xpixel), ws_ypixel=str(ypixel))


def _argument(call: Call, arg: int) -> str | None:
    command, value = call.args[1] & 0xFFFFFFFF, call.args[arg]
    if command in NO_ARGUMENT:
        return None
    if command in NUMBER:
        return str(signed(value))
    if command in (0x540A, 0x540B):
        return choice(value & 0xFFFFFFFF, FLOWS if command == 0x540A else QUEUES, "TC???")
    given = call.bytes(arg, ON_ENTRY) or b""
    got = call.bytes(arg, ON_RETURN) or b"" if call.returned and not call.error else b""
    if command in SETS and len(given) >= TERMIOS:
        return _mode(given)
    if command == TCGETS and len(got) >= TERMIOS:
        return _mode(got)
    if command in (GET_SIZE, SET_SIZE) and len(data := got if command == GET_SIZE else given) >= 8:
        return _size(data)
    number = got if command in NUMBERS_OUT else given if command in NUMBERS_IN else b""
    if len(number) >= 4:
        return f"[{signed(int.from_bytes(number[:4], 'little'))}]"
    return hexadecimal(value) if value else "NULL" if command in NAMES else "0"


def _command(call: Call, arg: int) -> str:
    command = call.args[arg] & 0xFFFFFFFF
    if command in NAMES:
        return NAMES[command]
    direction = ("_IOC_NONE", "_IOC_WRITE", "_IOC_READ", "_IOC_READ|_IOC_WRITE")[command >> 30]
    parts = (command >> 8 & 0xFF, command & 0xFF, command >> 16 & 0x3FFF)
    return f"_IOC({direction}, {', '.join(map(hexadecimal, parts))})"


ARGUMENT = Kind(_argument, ((ON_ENTRY, BYTES, BY_ONE, TERMIOS), (ON_RETURN, BYTES, BY_ONE, TERMIOS)), True)
CALLS: dict[str, Signature] = {"ioctl": (FD, Kind(_command), ARGUMENT)}
