"""The start of a program, as named properties that can be compared.

A witness (programs/) prints what it sees; `properties` turns that into {name: value}. Addresses are random, so
each becomes "image+offset" by the process's own maps; with `exact` (no randomisation) they stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from ..values import Value

Told = int | str
Properties = dict[str, Told]

OWN_NAME = "[anon:reflective:"  # memory that the loader leaves behind, and names
# A kernel without CONFIG_ANON_VMA_NAME takes no names. Then the one inaccessible anonymous mapping is the loader's:
# execve makes none.
OWN_UNNAMED = f"{OWN_NAME} unnamed]"

AUXV_NAMES = {
    0: "NULL", 3: "PHDR", 4: "PHENT", 5: "PHNUM", 6: "PAGESZ", 7: "BASE", 8: "FLAGS", 9: "ENTRY", 11: "UID", 12: "EUID",
    13: "GID", 14: "EGID", 15: "PLATFORM", 16: "HWCAP", 17: "CLKTCK", 23: "SECURE", 25: "RANDOM", 26: "HWCAP2",
    27: "RSEQ_FEATURE_SIZE", 28: "RSEQ_ALIGN", 29: "HWCAP3", 30: "HWCAP4", 31: "EXECFN", 33: "SYSINFO_EHDR",
    51: "MINSIGSTKSZ",
}  # fmt: skip
AUXV_ADDRESSES = {"PHDR", "BASE", "ENTRY", "RANDOM", "EXECFN", "PLATFORM", "SYSINFO_EHDR"}

# proc(5), /proc/pid/stat, in order.
# fmt: off
STAT_NAMES = (
    "pid", "comm", "state", "ppid", "pgrp", "session", "tty_nr", "tpgid", "flags", "minflt", "cminflt", "majflt",
    "cmajflt", "utime", "stime", "cutime", "cstime", "priority", "nice", "num_threads", "itrealvalue", "starttime",
    "vsize", "rss", "rsslim", "startcode", "endcode", "startstack", "kstkesp", "kstkeip", "signal", "blocked",
    "sigignore", "sigcatch", "wchan", "nswap", "cnswap", "exit_signal", "processor", "rt_priority", "policy",
    "delayacct_blkio_ticks", "guest_time", "cguest_time", "start_data", "end_data", "start_brk", "arg_start",
    "arg_end", "env_start", "env_end", "exit_code",
)
STAT_ADDRESSES = {
    "startcode", "endcode", "startstack", "start_data", "end_data", "start_brk", "arg_start", "arg_end", "env_start",
    "env_end",
}
# fmt: on
STAT_FLAGS = {"PF_FORKNOEXEC": 0x40, "PF_SUPERPRIV": 0x100}
BRK_RANDOM = 1 << 30  # arch/x86/kernel/process.c: arch_randomize_brk
RFLAGS = {"PF": 1 << 2, "ZF": 1 << 6}
# A processor may call x87 and SSE in use though their contents are initial (Intel SDM, volume 1, 13.6), and does so by chance
# after execve, too. The contents are compared: fpu.fxsave.
XSTATE_LEGACY = 3

# Of smaps: what the kernel decides when it maps. Sizes of what is resident depend on the page cache, and are left out.
SMAPS_KEYS = ("KernelPageSize", "MMUPageSize", "Locked", "THPeligible", "ProtectionKey", "VmFlags")

# Different in two native runs, or about the watching rather than the start.
VARIES = {
    "status.FDSize": "capacity of the descriptor table, which follows from the forks before, not from execve",
    "status.SigQ": "signals queued by all processes of the user",
    "stat.pid": "a new process",
    "stat.ppid": "natively whoever starts it, under a loader perhaps the loader",
    "stat.minflt": "depends on the page cache",
    "stat.majflt": "depends on the page cache",
    "stat.utime": "time",
    "stat.stime": "time",
    "stat.starttime": "time",
    "stat.rss": "depends on the page cache",
    "stat.processor": "scheduling",
    "stat.delayacct_blkio_ticks": "time",
    "stat.vsize": "compared as vm.size, less what maps.own names",
    "status.VmSize": "compared as vm.size",
    "status.VmPeak": "VmSize at its highest",
    "status.VmHWM": "resident set at its highest",
    "status.VmRSS": "depends on the page cache",
    "status.RssAnon": "depends on how deep the vectors reach into a page",
    "status.RssFile": "depends on the page cache",
    "status.VmPTE": "depends on how addresses fall on page tables",
    "status.Tgid": "a new process",
    "status.Pid": "a new process",
    "status.PPid": "natively whoever starts it, under a loader perhaps the loader",
    "status.NStgid": "a new process",
    "status.NSpid": "a new process",
    "status.voluntary_ctxt_switches": "scheduling",
    "status.nonvoluntary_ctxt_switches": "scheduling",
    "proc.arch_status": "AVX-512 use so far, in ms",
}


class Region(Value):
    """A line of /proc/self/maps, and the image it belongs to."""

    start: int
    end: int
    perms: str
    offset: int
    device: str
    inode: int
    name: str
    image: str = ""
    image_base: int = 0

    @property
    def own(self) -> bool:
        """Left behind by the loader."""
        return self.name.startswith(OWN_NAME)


def parse_maps(text: str) -> list[Region]:
    """The regions of a maps text. An unnamed region right after an image is that image's .bss."""
    regions: list[Region] = []
    images: dict[str, int] = {}
    for line in text.splitlines():
        bounds, perms, offset, device, inode, *rest = line.split(maxsplit=5)
        start, end = (int(bound, 16) for bound in bounds.split("-"))
        name = rest[0] if rest else ""
        if not name and perms == "---p":
            name = OWN_UNNAMED
        image, base = name.rsplit("/", 1)[-1], images.setdefault(name, start)
        if not name:
            touches = bool(regions) and regions[-1].end == start
            image, base = (regions[-1].image, regions[-1].image_base) if touches else ("anonymous", start)
        regions.append(Region(start, end, perms, int(offset, 16), device, int(inode), name, image, base))
    return regions


def split_smaps(text: str) -> list[tuple[Region, dict[str, str]]]:
    """The regions of an smaps text, each with its fields."""
    blocks = [block.splitlines() for block in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", text)[1:]]
    regions = parse_maps("\n".join(block[0] for block in blocks))
    fields = [dict(re.split(r":\s*", line.strip(), maxsplit=1) for line in block[1:]) for block in blocks]
    return list(zip(regions, fields, strict=True))


def numbered(regions: list[Region]) -> Iterator[tuple[str, Region]]:
    """Each region with the key it is compared under: image, and how many of that image came before."""
    seen: dict[str, int] = {}
    for region in regions:
        count = seen[region.image] = seen.get(region.image, -1) + 1
        yield f"{region.image}#{count}", region


class Start:
    """One witness's account, read with its own maps."""

    def __init__(self, account: Mapping[str, Any], *, exact: bool, first: bool, huge: bool) -> None:
        self.account = account
        self.exact = exact  # addresses are not random
        self.first = first  # the entry point saw the kernel's registers, not the dynamic linker's
        self.huge = huge  # the gaps between images are random
        everything = parse_maps(account["proc"]["maps"])
        self.own = [region for region in everything if region.own]
        self.regions = [region for region in everything if not region.own]
        self.stack = account["stack"]
        self.top: int = self.stack["top"]
        self.strings: int = min([*self.stack["argv"], *self.stack["envp"], self.top - 8])

    def where(self, address: int) -> Told:
        """An address in a form that two runs can share; what is no address stays a number."""
        if self.exact or address < 0x1000:
            return hex(address)
        if self.strings <= address <= self.top:
            return f"top-{self.top - address:#x}"
        inside = [region for region in self.regions if region.start <= address < region.end]
        for region in inside or [region for region in self.regions if region.end == address]:
            if region.name == "[stack]":
                return f"sp{address - self.stack['sp']:+#x}"
            return f"{region.image}+{address - region.image_base:#x}"
        return hex(address)

    def properties(self) -> Properties:
        """Everything that is compared, by name."""
        found: Properties = {}
        parts = (
            *(self._registers, self._maps, self._smaps, self._stat, self._status, self._files, self._stack, self._auxv),
            *(self._below, self._signals, self._descriptors, self._system, self._libc, self._brk, self._growth),
        )
        for part in parts:
            found.update(part())
        return {name: value for name, value in found.items() if name not in VARIES}

    def _registers(self) -> Iterator[tuple[str, Told]]:
        registers = dict(self.account["registers"])
        rflags = registers.pop("rflags")
        for name, value in registers.items():
            # What the dynamic linker leaves in the others is no business of the kernel's, and partly random.
            if self.first or name in ("rsp", "rdx", "cs", "ss", "ds", "es", "fs", "gs", "gs_base"):
                yield f"registers.{name}", self.where(value)
        fpu = self.account["fpu"]
        for name in ("fcw", "fsw", "ftw", "mxcsr", "xcr0", "pkru"):
            yield f"fpu.{name}", hex(fpu[name])
        if self.first:
            for name, bit in RFLAGS.items():
                yield f"registers.rflags.{name}", int(bool(rflags & bit))
            yield "registers.rflags.others", hex(rflags & ~sum(RFLAGS.values()))
            yield "fpu.fxsave", fpu["fxsave"]
            yield "fpu.xstate_bv", hex(fpu["xstate_bv"] & ~XSTATE_LEGACY)
            yield "fpu.xcomp_bv", hex(fpu["xcomp_bv"])
            yield "fpu.extended", str(fpu["extended"])

    def _maps(self) -> Iterator[tuple[str, Told]]:
        yield "maps.own", ", ".join(f"{region.name} {region.perms}" for region in self.own)
        if self.exact or not self.huge:
            yield "maps.order", " ".join(region.image for region in self.regions)
        for key, region in numbered(self.regions):
            yield f"maps[{key}].perms", region.perms
            yield f"maps[{key}].offset", hex(region.offset)
            yield f"maps[{key}].file", f"{region.device} {region.inode} {region.name}"
            yield f"maps[{key}].size", hex(region.end - region.start)
            # The mapping ends at the top of the stack, where the stack pointer is within it is random.
            on_stack = region.name == "[stack]" and not self.exact
            yield f"maps[{key}].at", f"top-{self.top - region.start:#x}" if on_stack else self.where(region.start)
        ends: dict[str, int] = {}
        for key, region in numbered(self.regions):
            if region.image in ends:  # though another image may lie in the gap
                yield f"maps[{key}].gap", hex(region.start - ends[region.image])
            ends[region.image] = region.end
        for (before, low), (key, high) in pairwise(numbered(self.regions)):
            if self.exact or not self.huge:
                yield f"maps[{key}].touches {before}", int(low.end == high.start)

    def _smaps(self) -> Iterator[tuple[str, Told]]:
        details = {region: fields for region, fields in split_smaps(self.account["proc"]["smaps"]) if not region.own}
        for key, region in numbered(list(details)):
            for name in SMAPS_KEYS:
                yield f"smaps[{key}].{name}", details[region].get(name, "")
            if region.inode:  # pages of the file that were copied: none of a segment that nobody wrote to
                yield f"smaps[{key}].Anonymous", details[region]["Anonymous"]

    def _stat(self) -> Iterator[tuple[str, Told]]:
        pid, rest = self.account["proc"]["stat"].split(" (", 1)
        comm, rest = rest.rsplit(") ", 1)
        values = [pid, comm, *rest.split()]
        for name, value in zip(STAT_NAMES, values, strict=True):
            if name == "flags":
                for flag, bit in STAT_FLAGS.items():
                    yield f"stat.flags.{flag}", int(bool(int(value) & bit))
                yield "stat.flags.others", hex(int(value) & ~sum(STAT_FLAGS.values()))
            elif name == "start_brk":
                yield "stat.start_brk", self._break_class(int(value))
            elif name == "vsize":
                yield "vm.size", int(value) - sum(region.end - region.start for region in self.own)
            else:
                yield f"stat.{name}", self.where(int(value)) if name in STAT_ADDRESSES else value

    def _break_class(self, address: int) -> str:
        """Where the break begins: at an image's end, at random after it, or (static-PIE) far from any."""
        if self.exact:
            return hex(address)
        below = [region for region in self.regions if region.end <= address and region.name != "[heap]"]
        if below and address - below[-1].end < BRK_RANDOM:
            return f"{'at the end of' if address == below[-1].end else 'after'} {below[-1].image}"
        return "alone in the executables' area" if address >> 40 in (0x55, 0x56) else hex(address)

    def _status(self) -> Iterator[tuple[str, Told]]:
        for line in self.account["proc"]["status"].splitlines():
            name, value = line.split(":", 1)
            yield f"status.{name}", " ".join(value.split())

    def _files(self) -> Iterator[tuple[str, Told]]:
        proc = self.account["proc"]
        for name, value in proc.items():
            if name not in ("maps", "smaps", "stat", "status", "auxv"):
                yield f"proc.{name}", value
        vector = b"".join(number.to_bytes(8, "little") for pair in self.stack["auxv"] for number in pair)
        yield "proc.auxv is the stack's", int(proc["auxv"].encode("latin-1").rstrip(b"\0") == vector.rstrip(b"\0"))
        yield "proc.auxv.length", len(proc["auxv"])

    def _stack(self) -> Iterator[tuple[str, Told]]:
        stack = self.stack
        lower = bytes.fromhex(stack["lower"])
        upper = bytes.fromhex(stack["upper"]) if "upper" in stack else lower
        auxv = {AUXV_NAMES.get(tag, str(tag)): value for tag, value in stack["auxv"]}
        vectors_end, random, platform = stack["vectors_end"], auxv["RANDOM"], auxv["PLATFORM"]
        after_platform = platform + len(stack["at_platform"]) + 1
        yield "stack.sp modulo 16", stack["sp"] % 16
        yield "stack.argc", stack["argc"]
        for name in ("argv", "envp"):
            yield f"stack.{name}", " ".join(str(self.where(address)) for address in stack[name])
        yield "stack.arguments", str(stack["arguments"])
        yield "stack.environment", str(stack["environment"])
        yield "stack.vectors' size", vectors_end - stack["sp"]
        yield "stack.from vectors to random bytes", random - vectors_end
        yield "stack.from random bytes to platform", platform - random
        yield "stack.padding after platform modulo 16", after_platform % 16
        gap = self.strings - after_platform
        if self.exact:
            yield "stack.gap below the strings", gap
        else:
            # fs/binfmt_elf.c: arch_align_stack takes off less than 8 KiB, then aligns to 16.
            yield "stack.gap below the strings is under 8 KiB", int(0 <= gap < 8192 + 16)
        if after_platform + gap - stack["sp"] <= len(lower):
            at = after_platform - stack["sp"]
            yield "stack.gap below the strings is zero", int(not any(lower[at : at + gap]))
        size = self.top - self.strings
        yield "stack.strings' size", size
        yield "stack.strings' bytes", upper[-min(size, len(upper)) :].decode("latin-1")
        yield "stack.below the random bytes", lower[vectors_end - stack["sp"] : random - stack["sp"]].hex()

    def _auxv(self) -> Iterator[tuple[str, Told]]:
        pairs = [(AUXV_NAMES.get(tag, str(tag)), value) for tag, value in self.stack["auxv"]]
        yield "auxv.order", " ".join(name for name, _ in pairs)
        for name, value in pairs:
            yield f"auxv.{name}", self.where(value) if name in AUXV_ADDRESSES else hex(value)
        yield "auxv.EXECFN string", self.stack["at_execfn"]
        yield "auxv.PLATFORM string", self.stack["at_platform"]
        yield "auxv.RANDOM is all zero", int(not any(bytes.fromhex(self.stack["at_random"])))

    def _below(self) -> Iterator[tuple[str, Told]]:
        if "below_sp" in self.account:
            words = self.account["below_sp"]["words"]
            just_below = dict(words).get(-8, 0)
            is_entry = just_below == self.account["entry_start"]
            yield "stack.word just below sp", "the entry address" if is_entry else hex(just_below)
            yield "stack.other words below sp", str([[at, value] for at, value in words if at != -8])

    def _signals(self) -> Iterator[tuple[str, Told]]:
        signals = self.account["signals"]
        for number, action in enumerate(signals["actions"], 1):
            yield f"signals.action {number}", str(action)
        for name in ("blocked", "pending", "altstack_flags", "altstack_size"):
            yield f"signals.{name}", hex(signals[name])
        yield "signals.altstack_sp", self.where(signals["altstack_sp"])

    def _descriptors(self) -> Iterator[tuple[str, Told]]:
        descriptors = self.account["descriptors"]
        yield "descriptors", " ".join(str(entry["fd"]) for entry in descriptors)
        for entry in descriptors:
            target = re.sub(r"^(pipe|socket):\[\d+\]$", r"\1", str(entry["target"]))
            yield f"descriptors[{entry['fd']}].target", target
            for name in ("fd_flags", "status_flags", "position"):
                yield f"descriptors[{entry['fd']}].{name}", entry[name]

    def _system(self) -> Iterator[tuple[str, Told]]:
        for part in ("prctl", "x86", "identity", "thread"):
            for name, value in self.account[part].items():
                if name in ("TID_ADDRESS", "robust_list"):
                    yield f"{part}.{name}", self.where(value)
                elif isinstance(value, list):
                    yield f"{part}.{name}", str(value)
                else:
                    yield f"{part}.{name}", value
        if "rseq_register" in self.account:
            yield "rseq.register", self.account["rseq_register"]

    def _libc(self) -> Iterator[tuple[str, Told]]:
        for name, value in self.account.get("libc", {}).items():
            is_address = name in ("main_argv", "main_envp", "environ", "constructor_argv", "constructor_envp")
            yield f"libc.{name}", self.where(value) if is_address else value

    def _brk(self) -> Iterator[tuple[str, Told]]:
        brk = self.account["brk"]
        start = int(self.account["proc"]["stat"].rsplit(") ", 1)[1].split()[STAT_NAMES.index("start_brk") - 2])
        heaps = [region for region in parse_maps(brk["maps"]) if region.name == "[heap]"]
        yield "brk.before", brk["before"] - start
        yield "brk.grown", brk["grown"]
        yield "brk.heaps", len(heaps)
        for heap in heaps[:1]:
            yield "brk.heap begins at start_brk", int(heap.start == start)
            yield "brk.heap", f"{heap.perms} {heap.end - heap.start:#x}"

    def _growth(self) -> Iterator[tuple[str, Told]]:
        for name, value in self.account["stack_growth"].items():
            yield f"stack_growth.{name}", value


class Difference(Value):
    """One property that is not the same; None: there is no such property."""

    name: str
    kernel: Told | None
    loader: Told | None

    def __str__(self) -> str:
        return f"{self.name}\n    kernel  {self._show(self.kernel)}\n    loader  {self._show(self.loader)}"

    def _show(self, value: Told | None) -> str:
        """The value, of a long one the part around the first difference."""
        text, other = str(value), str(self.loader if value is self.kernel else self.kernel)
        if len(text) <= 160:
            return repr(value)
        same = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), len(other))
        return f"{len(text)} characters, at {same}: {text[max(0, same - 40) : same + 100]!r}"


def differences(kernel: Properties, loader: Properties) -> list[Difference]:
    """The properties in which the two differ, in the order of the kernel's."""
    names = [*kernel, *(name for name in loader if name not in kernel)]
    return [Difference(name, kernel.get(name), loader.get(name)) for name in names if kernel.get(name) != loader.get(name)]
