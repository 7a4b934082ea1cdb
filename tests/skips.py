"""What a test needs of the machine: the reason for a skip is always what to install.

Where CI is set in the environment nothing may be missing: there a skip is a failure, but for those listed here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest
from verdict import may_set_exe

# Reasons (regular expressions) that CI accepts, and why.
ALLOWED = {
    r"python3\.1[23] is not installed": "Debian 12 packages 3.11 alone; the others are tested where pyenv has them",
    r"CPython's own tests are not installed.*": "some distributions leave them out of Python",
    r"nothing can be sealed here.*": "mseal came with Linux 6.10",
    r"no thread of the kernel is visible": "a container has a PID namespace of its own",
    r"uprobes (are for root|can't be had here).*": "they take root, and a container seldom has CAP_SYS_ADMIN",
    r"no hierarchy of cgroups for processors here.*": "with cgroup v2 alone there is none to make a group in",
    r"vm.overcommit_memory can't be set here.*": "in a container /proc/sys may be read-only",
}
FOR_ROOT = (
    r".*\b(only root|run as root|needs root|needs to be root|root alone|for root)\b.*"  # and so accepted of another user
)

SETS_EXE = pytest.mark.skipif(not may_set_exe(), reason="/proc/PID/exe stays the parent's: run as root")


def needs(program: str, package: str) -> None:
    """Skips the test if the program is not installed, and says how to get it."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: apt-get install {package}")


def needs_mounts() -> None:
    """Skips the test if there is no mount namespace to be had; a user gets one in a user namespace."""
    words = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else []), "mount", "-t", "tmpfs", "none", "/tmp"]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here: run as root, in a container with CAP_SYS_ADMIN")


def refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turns a skip into a failure where CI is set, unless its reason is allowed. An expected failure is no skip."""
    if "CI" not in os.environ or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr).removeprefix("Skipped: ")
    if not any(re.fullmatch(pattern, reason) for pattern in [*ALLOWED, *([FOR_ROOT] if os.geteuid() else [])]):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow (tests/skips.py): {reason}"
