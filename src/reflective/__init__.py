"""execve in user space, where it can be seen.

The names below are imported when first used: starting a program must not wait for the tools that watch one.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .errors import LoadError, ReflectiveError
    from .patch import patch_subprocess
    from .plan.build import build as plan
    from .process import (
        DEVNULL,
        PIPE,
        STDOUT,
        CalledProcessError,
        CompletedProcess,
        Popen,
        SubprocessError,
        TimeoutExpired,
        call,
        check_call,
        check_output,
        getoutput,
        getstatusoutput,
        run,
        spawn,
    )
    from .template import Template

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "CalledProcessError",
    "CompletedProcess",
    "LoadError",
    "Popen",
    "ReflectiveError",
    "SubprocessError",
    "Template",
    "TimeoutExpired",
    "call",
    "check_call",
    "check_output",
    "getoutput",
    "getstatusoutput",
    "patch_subprocess",
    "plan",
    "run",
    "spawn",
]
__version__ = "0.1.0"

_HOMES = {
    "plan": ("plan.build", "build"),
    "LoadError": ("errors", "LoadError"),
    "ReflectiveError": ("errors", "ReflectiveError"),
    "patch_subprocess": ("patch", "patch_subprocess"),
    "Template": ("template", "Template"),
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _HOMES.get(name, ("process", name))
    found = globals()[name] = getattr(import_module(f"{__name__}.{module}"), attribute)
    return found
