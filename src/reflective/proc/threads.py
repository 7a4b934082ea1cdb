"""Where the threads of a process have their stacks."""

from __future__ import annotations

import os


def stack_pointers(pid: int) -> dict[int, int]:
    """The stack pointer of each thread that waits in the kernel, by thread ID; others don't tell (man 5 proc_pid_syscall)."""
    found: dict[int, int] = {}
    try:
        threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/syscall", "rb", buffering=0) as file:
                words = file.readall().split()
        except OSError:
            continue
        if len(words) >= 3:
            found[thread] = int(words[-2], 16)
    return found
