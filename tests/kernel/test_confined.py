"""The loader's own tests again, with less than root has: what can't be as after execve says so, and is never wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from as_nobody import NO_CAPABILITIES, NOBODYS, environment, reachable
from skips import needs
from verdict import public_directory

ROOT = Path(__file__).parents[2]
CONFINE = (sys.executable, str(ROOT / "tests" / "confine.py"))

STARTS = [f"tests/kernel/test_state.py::test_start[aslr-{name}]" for name in ("dynamic", "static-pie", "entry-pie")]
PROGRAMS = [f"tests/kernel/test_programs.py::test_program[{name}]" for name in ("bash", "env", "make")]
NAMES = (
    "pipes",
    "shell",
    "executable in PATH",
    "cwd",
    "env",
    "state",
    "user",
    "groups",
    "preexec",
    "killed",
    "missing",
    "too long",
)
CALLS = [f"tests/kernel/test_process.py::test_run[{name}]" for name in NAMES]
TESTS = [*STARTS, *PROGRAMS, *CALLS]


def run(prefix: Sequence[str], command: Sequence[str], *, another: bool = False) -> subprocess.CompletedProcess[str]:
    words = [*prefix, *command]
    return subprocess.run(
        reachable(words) if another else words,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
        env=environment(),
    )


# How to start a command with less, and whether as another user.
CONFINEMENTS: dict[str, tuple[tuple[str, ...], bool]] = {
    "no capabilities": (NO_CAPABILITIES, False),
    "another user, no capabilities": ((*NO_CAPABILITIES, *NOBODYS), True),
    "user namespace": (("unshare", "--user", "--map-root-user"), False),
    "no_new_privs": (("setpriv", "--no-new-privs"), False),
    "seccomp": ((*NO_CAPABILITIES, *CONFINE, "seccomp"), False),
    "no written code": ((*CONFINE, "written"), False),
    "landlock": ((*CONFINE, "landlock"), False),
}
WITH_CAPABILITIES = {"no_new_privs", "landlock", "user namespace", "no written code"}


def prefix_of(name: str) -> tuple[tuple[str, ...], bool]:
    """Skips where this user, or this kernel, can't confine itself so."""
    needs("setpriv", "util-linux")
    prefix, another = CONFINEMENTS[name]
    if os.geteuid() and name in ("no capabilities", "another user, no capabilities"):
        pytest.skip("has no capabilities already: run as root")
    if os.geteuid() and prefix[0] == "setpriv" and name == "seccomp":
        prefix = (*CONFINE, "seccomp")
    if run(prefix, ["true"], another=another).returncode:
        pytest.skip(f"this kernel does not allow it: {name}")
    return prefix, another


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFINEMENTS)
def test_the_loaders_tests(name: str) -> None:
    prefix, another = prefix_of(name)
    with public_directory() as directory:
        place = directory / "pytest"
        options = ["-q", "-p", "no:cacheprovider", f"--basetemp={place}"]
        os.chmod(directory, 0o777)
        done = run(prefix, [sys.executable, "-m", "pytest", *options, *TESTS], another=another)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout


SAYS = """
import json, reflective
with reflective.Popen(["/usr/bin/readlink", "/proc/self/exe"], stdout=-1) as process:
    output = process.communicate()[0].decode().strip()
print(json.dumps([output, [item.what for item in process.degraded], process.returncode]))
"""


@pytest.mark.parametrize("name", CONFINEMENTS)
def test_what_is_degraded_is_said(name: str) -> None:
    """/proc/self/exe is the program, or `degraded` says that it isn't."""
    prefix, another = prefix_of(name)
    done = run(prefix, [sys.executable, "-c", SAYS], another=another)
    assert done.returncode == 0, done.stderr
    output, degraded, status = json.loads(done.stdout)
    assert status == 0
    assert (output == "/usr/bin/readlink") == ("exe" not in degraded)
    if os.geteuid() == 0:
        assert degraded == ([] if name in WITH_CAPABILITIES else ["exe"])
