"""Runs pytest as another user, without any capability: `as_nobody.py ARGUMENT OF PYTEST…`, as root.

This Python and this checkout may lie where others can't go: a mount namespace has them reachable there.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from verdict import NOBODY, public_directory

ROOT = Path(__file__).resolve().parents[1]
NO_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
NOBODYS = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


def blocked(path: Path) -> Path | None:
    """The first directory on the way there that others may not pass."""
    return next((one for one in reversed(path.resolve().parents) if not one.stat().st_mode & 1), None)


def reachable(command: Sequence[str]) -> list[str]:
    """The command in a mount namespace in which everyone reaches this Python and this checkout, wherever they lie.

    A directory that is closed is covered there by an empty one, in which what is needed is mounted again.
    """
    wanted = {Path(sys.base_prefix).resolve(), ROOT, Path(sys.prefix).resolve()}
    closed = {path: directory for path in wanted if (directory := blocked(path))}
    if not closed:
        return list(command)
    lines = ["set -e", "keep=$(mktemp -d)"]
    lines += [f"mkdir $keep/{n}; mount --bind {shlex.quote(str(path))} $keep/{n}" for n, path in enumerate(closed)]
    lines += [f"mount -t tmpfs -o mode=755 none {shlex.quote(str(directory))}" for directory in set(closed.values())]
    lines += [
        f"mkdir -p {shlex.quote(str(path))}; mount --bind $keep/{n} {shlex.quote(str(path))}" for n, path in enumerate(closed)
    ]
    return ["unshare", "--mount", "sh", "-c", "\n".join([*lines, 'exec "$@"']), "sh", *command]


def environment() -> dict[str, str]:
    """For who may write in neither the checkout nor a home."""
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/tmp"}


def main() -> int:
    """pytest's exit status."""
    with public_directory() as directory:
        os.chmod(directory, 0o777)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={directory / 'pytest'}"]
        words = reachable([*NO_CAPABILITIES, *NOBODYS, *command, *sys.argv[1:]])
        return subprocess.run(words, cwd=ROOT, env=environment(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
