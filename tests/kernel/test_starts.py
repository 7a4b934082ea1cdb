"""Many starts from one process: what it keeps out of its children, and that they are as others are."""

from __future__ import annotations

import subprocess
import sys

LEFT_OUT = """
import os, sys
from reflective.native.system import leave_out
from reflective.native.prepare import Request, prepare
from reflective.native.run import Files, spawn_prepared
from reflective.plan.build import build
from reflective.proc import maps
from reflective.trace.starts import KERNELS

plan = build("/bin/cat")
prepared = prepare(Request(plan, (b"cat", b"/proc/self/maps"), (b"A=1",)), in_place=False)
own = [one for one in maps.read(os.getpid()) if one.path not in KERNELS]
count = leave_out([(one.start, one.end) for one in own])
flags = {}
for line in open("/proc/self/smaps"):
    if "-" in line.split()[0]:
        path = line.split(None, 5)[5].strip() if len(line.split(None, 5)) == 6 else ""
    elif line.startswith("VmFlags:"):
        flags.setdefault(path, []).append("dc" in line.split())
print(count, len(own), all(flags["[heap]"]), any(flags["[stack]"]), any(flags["[vdso]"]), flush=True)
with Files(plan) as files:
    for _ in range(int(sys.argv[1])):
        started = spawn_prepared(prepared, files)
        print("status", os.waitpid(started.pid, 0)[1], flush=True)
"""


def test_children_without_this_process_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OUT, "3"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    count, mappings, *flags = head.split()
    assert int(count) > int(mappings) - 10  # the stack, code and thread data that the child still uses
    assert flags == ["True", "False", "False"]
    assert [line for line in lines if line.startswith("status")] == ["status 0"] * 3
    assert not [line for line in lines if "python" in line]
    bases = [line for line in lines if line.endswith("/cat") and " 00000000 " in line]
    assert len(bases) == len(set(bases)) == 3  # drawn anew each time
