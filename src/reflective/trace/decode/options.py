"""Options of sockets: setsockopt and getsockopt."""

from __future__ import annotations

import errno
import struct

from .base import BY_WORD, BYTES, ON_ENTRY, ON_RETURN, Call, Kind, Signature, address, choice, fields, numbered, quoted
from .common import FD, D
from .socket import LENGTH, LEVELS

SOCKET = numbered(
    "SO_DEBUG SO_REUSEADDR SO_TYPE SO_ERROR SO_DONTROUTE SO_BROADCAST SO_SNDBUF SO_RCVBUF SO_KEEPALIVE SO_OOBINLINE "
    "SO_NO_CHECK SO_PRIORITY SO_LINGER SO_BSDCOMPAT SO_REUSEPORT SO_PASSCRED SO_PEERCRED SO_RCVLOWAT SO_SNDLOWAT "
    "SO_RCVTIMEO_OLD SO_SNDTIMEO_OLD SO_SECURITY_AUTHENTICATION SO_SECURITY_ENCRYPTION_TRANSPORT "
    "SO_SECURITY_ENCRYPTION_NETWORK SO_BINDTODEVICE SO_ATTACH_FILTER SO_DETACH_FILTER SO_PEERNAME SO_TIMESTAMP_OLD "
    "SO_ACCEPTCONN SO_PEERSEC SO_SNDBUFFORCE SO_RCVBUFFORCE SO_PASSSEC SO_TIMESTAMPNS_OLD SO_MARK SO_TIMESTAMPING_OLD "
    "SO_PROTOCOL SO_DOMAIN SO_RXQ_OVFL SO_WIFI_STATUS SO_PEEK_OFF SO_NOFCS SO_LOCK_FILTER SO_SELECT_ERR_QUEUE SO_BUSY_POLL "
    "SO_MAX_PACING_RATE SO_BPF_EXTENSIONS SO_INCOMING_CPU SO_ATTACH_BPF SO_ATTACH_REUSEPORT_CBPF SO_ATTACH_REUSEPORT_EBPF "
    "SO_CNX_ADVICE - SO_MEMINFO SO_INCOMING_NAPI_ID SO_COOKIE - SO_PEERGROUPS SO_ZEROCOPY SO_TXTIME SO_BINDTOIFINDEX "
    "SO_TIMESTAMP_NEW SO_TIMESTAMPNS_NEW SO_TIMESTAMPING_NEW SO_RCVTIMEO_NEW SO_SNDTIMEO_NEW SO_DETACH_REUSEPORT_BPF "
    "SO_PREFER_BUSY_POLL SO_BUSY_POLL_BUDGET SO_NETNS_COOKIE SO_BUF_LOCK SO_RESERVE_MEM SO_TXREHASH SO_RCVMARK",
    1,
)
TCP = numbered(
    "TCP_NODELAY TCP_MAXSEG TCP_CORK TCP_KEEPIDLE TCP_KEEPINTVL TCP_KEEPCNT TCP_SYNCNT TCP_LINGER2 TCP_DEFER_ACCEPT "
    "TCP_WINDOW_CLAMP TCP_INFO TCP_QUICKACK TCP_CONGESTION TCP_MD5SIG TCP_COOKIE_TRANSACTIONS TCP_THIN_LINEAR_TIMEOUTS "
    "TCP_THIN_DUPACK TCP_USER_TIMEOUT TCP_REPAIR TCP_REPAIR_QUEUE TCP_QUEUE_SEQ TCP_REPAIR_OPTIONS TCP_FASTOPEN TCP_TIMESTAMP "
    "TCP_NOTSENT_LOWAT TCP_CC_INFO TCP_SAVE_SYN TCP_SAVED_SYN TCP_REPAIR_WINDOW TCP_FASTOPEN_CONNECT TCP_ULP TCP_MD5SIG_EXT "
    "TCP_FASTOPEN_KEY TCP_FASTOPEN_NO_COOKIE TCP_ZEROCOPY_RECEIVE TCP_INQ TCP_TX_DELAY",
    1,
)
IP = numbered(
    "IP_TOS IP_TTL IP_HDRINCL IP_OPTIONS IP_ROUTER_ALERT IP_RECVOPTS IP_RETOPTS IP_PKTINFO IP_PKTOPTIONS IP_MTU_DISCOVER "
    "IP_RECVERR IP_RECVTTL IP_RECVTOS IP_MTU IP_FREEBIND IP_IPSEC_POLICY IP_XFRM_POLICY IP_PASSSEC IP_TRANSPARENT "
    "IP_ORIGDSTADDR IP_MINTTL IP_NODEFRAG IP_CHECKSUM IP_BIND_ADDRESS_NO_PORT IP_RECVFRAGSIZE IP_RECVERR_RFC4884 "
    "- - - - - IP_MULTICAST_IF IP_MULTICAST_TTL IP_MULTICAST_LOOP IP_ADD_MEMBERSHIP IP_DROP_MEMBERSHIP",
    1,
)
IPV6 = numbered(
    "IPV6_UNICAST_HOPS IPV6_MULTICAST_IF IPV6_MULTICAST_HOPS IPV6_MULTICAST_LOOP IPV6_ADD_MEMBERSHIP IPV6_DROP_MEMBERSHIP "
    "IPV6_ROUTER_ALERT IPV6_MTU_DISCOVER IPV6_MTU IPV6_RECVERR IPV6_V6ONLY IPV6_JOIN_ANYCAST IPV6_LEAVE_ANYCAST",
    16,
) | {49: "IPV6_RECVPKTINFO", 50: "IPV6_PKTINFO", 51: "IPV6_RECVHOPLIMIT", 52: "IPV6_HOPLIMIT", 66: "IPV6_RECVTCLASS",
     67: "IPV6_TCLASS"}  # fmt: skip
NAMES = {1: (SOCKET, "SO_???"), 6: (TCP, "TCP_???"), 0: (IP, "IP_???"), 41: (IPV6, "IPV6_???")}
SO_ERROR, SO_LINGER, SO_PEERCRED, SO_BINDTODEVICE = (1, 4), (1, 13), (1, 17), (1, 25)


def _level(call: Call, arg: int) -> str:
    return choice(call.args[arg] & 0xFFFFFFFF, LEVELS, "SOL_??")


def _name(call: Call, arg: int) -> str:
    value, names = call.args[arg] & 0xFFFFFFFF, NAMES.get(call.args[1] & 0xFFFFFFFF)
    return choice(value, *names) if names else str(value)


def _text(call: Call, data: bytes, size: int, got: bool) -> str:
    option = (call.args[1] & 0xFFFFFFFF, call.args[2] & 0xFFFFFFFF)
    if option == SO_LINGER and size >= 8:
        on, seconds = struct.unpack_from("<ii", data)
        return fields(l_onoff=str(on), l_linger=str(seconds))
    if option == SO_PEERCRED and size >= 12:
        pid, uid, gid = struct.unpack_from("<iII", data)
        return fields(pid=str(pid), uid=str(uid), gid=str(gid))
    if not got and option[0] == 1 and size < 4 and option != SO_BINDTODEVICE:
        return address(call.args[3])
    if size == 4 and len(data) >= 4:
        value = int.from_bytes(data[:4], "little", signed=True)
        return f"[{errno.errorcode.get(value, value)}]" if got and option == SO_ERROR and value else f"[{value}]"
    if got and option == SO_ERROR:
        return '"' + "".join(f"\\x{byte:02x}" for byte in data[:size]) + '"'
    return quoted(data[:size], call.limit, size > call.limit)


def _given(call: Call, arg: int) -> str:
    size, data = call.args[4] & 0xFFFFFFFF, call.bytes(arg, ON_ENTRY)
    if data is None or size > 1 << 31 or len(data) < min(size, call.limit):
        return address(call.args[arg])
    return _text(call, data, size, False)


def _got(call: Call, arg: int) -> str:
    data, after = call.bytes(arg, ON_RETURN), call.bytes(arg + 1, ON_RETURN, 4)
    if call.error or not call.returned or data is None or after is None:
        return address(call.args[arg])
    return _text(call, data, int.from_bytes(after[:4], "little"), True)


CALLS: dict[str, Signature] = {
    "setsockopt": (FD, Kind(_level), Kind(_name), Kind(_given, ((ON_ENTRY, BYTES, 4, 0),)), D),
    "getsockopt": (FD, Kind(_level), Kind(_name), Kind(_got, ((ON_RETURN, BYTES, BY_WORD, 0),), True), LENGTH),
}  # fmt: skip
