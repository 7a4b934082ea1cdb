"""Who traces a process."""

from __future__ import annotations


def tracer(pid: int | str) -> str:
    """Name and process ID of the tracer, "strace (4711)"; "" if there is none, or none that this PID namespace knows."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            number = next((int(line.split()[1]) for line in file if line.startswith(b"TracerPid:")), 0)
        if not number:
            return ""
        with open(f"/proc/{number}/comm", "rb") as file:
            return f"{file.read().decode(errors='replace').strip()} ({number})"
    except OSError:
        return ""
