"""What a process born of a server takes from the caller: adopted, or seen to differ (csrc/zygote/state.h)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror")
CARRIED = ("umask", "nice", "policy", "processor", "limit", "group", "ignored", "heeded", "io priority")
COMPARED = (
    "groups", "user", "saved user", "bounding set", "no new privileges", "securebits", "timer slack", "huge pages", "score",
    "core filter", "personality", "mounts", "network", "host name", "ipc", "cgroup namespace", "keyring",
)  # fmt: skip


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("adopt") / "adopt"
    sources = (ROOT / "tests/core/adopt.c", ROOT / "csrc/zygote/read.c", ROOT / "csrc/zygote/adopt.c")
    subprocess.run(["gcc", *FLAGS, f"-I{ROOT / 'csrc'}", *map(str, sources), "-o", target], check=True)
    return target


def told(harness: Path, *words: str) -> str:
    done = subprocess.run([harness, *words], capture_output=True, text=True, check=False, timeout=30)
    if done.returncode == 3 and os.geteuid() != 0:
        pytest.skip("needs to be root")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_changed(harness: Path) -> None:
    assert told(harness, "nothing") == "same kept"


@pytest.mark.parametrize("change", CARRIED)
def test_is_adopted(harness: Path, change: str) -> None:
    assert told(harness, change) == "same adopted"


@pytest.mark.parametrize("change", COMPARED)
def test_is_seen_to_differ(harness: Path, change: str) -> None:
    assert told(harness, change) == "other kept"


def test_other_session_is_seen(harness: Path) -> None:
    """Whoever would adopt it nevertheless is told that it can't be."""
    assert told(harness, "session") == "other Operation not permitted"


def test_what_cannot_be_read_is_an_error(harness: Path) -> None:
    """Below another root there is no /proc to ask."""
    assert told(harness, "root").startswith("No such file or directory")
