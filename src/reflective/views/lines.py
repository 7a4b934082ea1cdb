"""Values as plain lines, for stderr."""

from __future__ import annotations

from ..native.run import Started
from ..plan.build import LoadPlan


def start(started: Started, plan: LoadPlan) -> list[str]:
    """The bases of a start, and what is not as after execve."""
    layout = started.layout
    lines = [f"process {started.pid}: {plan.path}"]
    if plan.prefix:
        lines.append("script: run by " + " ".join(word.decode(errors="surrogateescape") for word in plan.prefix))
    lines.append(f"executable {plan.executable.path}: load bias {layout.exe:#x}")
    if plan.interpreter:
        lines.append(f"interpreter {plan.interpreter.path}: load bias {layout.interp:#x}")
    lines.append(f"heap from {layout.brk:#x}, stack below {layout.stack_top:#x}, vdso and vvar at {layout.vdso:#x}")
    lines += [f"covered: {size:#x} bytes at {start:#x}, so that libraries go below" for start, size in layout.hide]
    lines += [f"not as after execve: {item.what}: {item.why}" for item in started.degraded]
    return lines
