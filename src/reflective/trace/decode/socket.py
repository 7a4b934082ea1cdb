"""Calls about sockets."""

from __future__ import annotations

import ipaddress
import struct

from .base import (
    BY_ONE,
    BY_WORD,
    BYTES,
    ON_ENTRY,
    ON_RETURN,
    Call,
    Kind,
    Signature,
    address,
    bits,
    fields,
    flags,
    hexadecimal,
    named,
    named_flags,
    numbered,
    quoted,
)
from .common import FD, FD_PAIR, LU, RECEIVED, D, sent

FAMILIES = {0: "AF_UNSPEC", 1: "AF_UNIX", 2: "AF_INET", 10: "AF_INET6", 16: "AF_NETLINK", 17: "AF_PACKET", 40: "AF_VSOCK"}
TYPES = numbered("SOCK_STREAM SOCK_DGRAM SOCK_RAW SOCK_RDM SOCK_SEQPACKET", 1)
TYPE_FLAGS = {0o2000000: "SOCK_CLOEXEC", 0o4000: "SOCK_NONBLOCK"}
PROTOCOLS = {0: "IPPROTO_IP", 1: "IPPROTO_ICMP", 6: "IPPROTO_TCP", 17: "IPPROTO_UDP", 58: "IPPROTO_ICMPV6"}
NETLINK = {0: "NETLINK_ROUTE", 4: "NETLINK_SOCK_DIAG", 9: "NETLINK_AUDIT", 15: "NETLINK_KOBJECT_UEVENT", 16: "NETLINK_GENERIC"}
MESSAGE_FLAGS = bits(
    "MSG_OOB MSG_PEEK MSG_DONTROUTE MSG_CTRUNC MSG_PROBE MSG_TRUNC MSG_DONTWAIT MSG_EOR MSG_WAITALL MSG_FIN MSG_SYN "
    "MSG_CONFIRM "
    "MSG_RST MSG_ERRQUEUE MSG_NOSIGNAL MSG_MORE MSG_WAITFORONE"
) | {1 << 30: "MSG_CMSG_CLOEXEC"}
LEVELS = {1: "SOL_SOCKET", 0: "SOL_IP", 6: "SOL_TCP", 17: "SOL_UDP", 41: "SOL_IPV6"}
ETHERNET = {3: "ETH_P_ALL", 0x800: "ETH_P_IP", 0x806: "ETH_P_ARP", 0x86DD: "ETH_P_IPV6"}


def socket_address(data: bytes) -> str:
    """struct sockaddr of the families that programs meet."""
    family = int.from_bytes(data[:2], "little")
    known = {"sa_family": FAMILIES.get(family, f"{family:#x}")}
    if family == 1:
        path = data[2:]
        text = quoted(path[1:], 108).replace('"', '@"', 1) if path[:1] == b"\0" else quoted(path.partition(b"\0")[0], 108)
        return fields(**known, **({"sun_path": text} if path else {}))
    if family == 2 and len(data) >= 8:
        port, host = struct.unpack_from(">H4s", data, 2)
        return f'{{sa_family=AF_INET, sin_port=htons({port}), sin_addr=inet_addr("{ipaddress.IPv4Address(host)}")}}'
    if family == 10 and len(data) >= 28:
        port, flow, host = struct.unpack_from(">HI16s", data, 2)
        scope = int.from_bytes(data[24:28], "little")
        return (
            f"{{sa_family=AF_INET6, sin6_port=htons({port}), sin6_flowinfo=htonl({flow}), inet_pton(AF_INET6, "
            f'"{ipaddress.IPv6Address(host)}", &sin6_addr), sin6_scope_id={scope}}}'
        )
    if family == 16 and len(data) >= 12:
        pid, groups = struct.unpack_from("<II", data, 4)
        return f"{{sa_family=AF_NETLINK, nl_pid={pid}, nl_groups={groups:08x}}}"
    return fields(**known, **({"sa_data": quoted(data[2:], 128)} if len(data) > 2 else {}))


def _given_address(call: Call, arg: int) -> str:
    size = call.args[arg + 1] & 0xFFFFFFFF
    data = call.bytes(arg, ON_ENTRY) or b""
    return socket_address(data) if len(data) > 1 and len(data) >= min(size, ADDRESS_MOST) else address(call.args[arg])


def _got_address(call: Call, arg: int) -> str:
    data, room = call.bytes(arg, ON_RETURN), call.bytes(arg + 1, ON_ENTRY, 4)
    if not data or room is None or call.error or not call.returned:
        return address(call.args[arg])
    data = data[: int.from_bytes(room[:4], "little")]
    return socket_address(data) if len(data) > 1 else address(call.args[arg])


def _got_length(call: Call, arg: int) -> str:
    before, after = call.bytes(arg, ON_ENTRY, 4), call.bytes(arg, ON_RETURN, 4)
    if before is None:
        return address(call.args[arg])
    first = int.from_bytes(before, "little")
    last = int.from_bytes(after, "little") if after and not call.error else first
    return f"[{first} => {last}]" if first != last else f"[{first}]"


def _type(call: Call, arg: int) -> str:
    value = call.args[arg] & 0xFFFFFFFF
    name, rest = TYPES.get(value & 15), value & ~15
    if name is None:
        return flags(value, TYPE_FLAGS, "SOCK_???", "0 /* SOCK_??? */")
    return name + (f"|{flags(rest, TYPE_FLAGS, '').partition(' ')[0]}" if rest else "")


def _protocol(call: Call, arg: int) -> str:
    family, value = call.args[0] & 0xFFFFFFFF, call.args[arg] & 0xFFFFFFFF
    if family == 17:
        number = (value & 0xFF) << 8 | value >> 8 & 0xFF
        return f"htons({ETHERNET.get(number) or hexadecimal(number) + ' /* ETH_P_??? */'})"
    table = PROTOCOLS if family in (2, 10) else NETLINK if family == 16 else {}
    return table.get(value, str(value))


ADDRESS_MOST = 128
ADDRESS = Kind(_given_address, ((ON_ENTRY, BYTES, 2, 0),))
ADDRESS_TO = Kind(_given_address, ((ON_ENTRY, BYTES, 5, 0),))
ADDRESS_OUT = Kind(_got_address, ((ON_RETURN, BYTES, BY_WORD, 0),), True)
LENGTH = Kind(_got_length, ((ON_ENTRY, BYTES, BY_ONE, 4), (ON_RETURN, BYTES, BY_ONE, 4)), True)
FAMILY, FLAGS = named(FAMILIES, "AF_???"), named_flags(MESSAGE_FLAGS, "MSG_???")

CALLS: dict[str, Signature] = {
    "socket": (FAMILY, Kind(_type), Kind(_protocol)), "socketpair": (FAMILY, Kind(_type), Kind(_protocol), FD_PAIR),
    "connect": (FD, ADDRESS, D), "bind": (FD, ADDRESS, D), "listen": (FD, D), "accept": (FD, ADDRESS_OUT, LENGTH),
    "accept4": (FD, ADDRESS_OUT, LENGTH, named_flags(TYPE_FLAGS, "SOCK_???")), "getsockname": (FD, ADDRESS_OUT, LENGTH),
    "getpeername": (FD, ADDRESS_OUT, LENGTH), "shutdown": (FD, named(numbered("SHUT_RD SHUT_WR SHUT_RDWR"), "SHUT_???")),
    "sendto": (FD, sent(2), LU, FLAGS, ADDRESS_TO, D), "recvfrom": (FD, RECEIVED, LU, FLAGS, ADDRESS_OUT, LENGTH),
}  # fmt: skip
