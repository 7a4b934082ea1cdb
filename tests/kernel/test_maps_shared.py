"""`reflective maps --shared`: page frames that two processes have in common, against what is known of fork and of files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

COMMAND = (sys.executable, "-m", "reflective", "maps")
PROGRAMS = Path(__file__).parents[1] / "programs"
LIBC = "/libc.so.6"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="page frame numbers are for root alone")


def maps(*words: str | int) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, check=False, timeout=60)


def rows(*words: str | int) -> list[dict[str, Any]]:
    done = maps("--json", *words)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def waiting() -> Iterator[int]:
    """A process that has run all of its start, and waits."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"x")
        child.stdin.flush()
        child.stdout.read(1)
        yield child.pid
        child.stdin.close()


@pytest.fixture
def one() -> Iterator[int]:
    yield from waiting()


@pytest.fixture
def other() -> Iterator[int]:
    yield from waiting()


def check(row: dict[str, Any]) -> None:
    assert row["pages_same"] + row["pages_differ"] == row["pages_both"] <= min(row["pages_here"], row["pages_there"])
    assert row["pages_here"] <= (row["end"] - row["start"]) // 4096


@needs_root
def test_libc_is_shared_and_its_data_is_not(one: int, other: int) -> None:
    found = rows("--shared", other, one)
    compared = [row for row in found if row["pages_both"] is not None]
    for row in compared:
        check(row)
        assert (row["pid"], row["with"]) == (one, other)
    libc = [row for row in compared if row["object"].endswith(LIBC)]
    (text,) = (row for row in libc if row["prot"] == 5)
    assert text["pages_both"] > 20
    assert text["pages_differ"] == 0
    relocated = [row for row in libc if row["relro"]]
    assert relocated
    assert all(row["pages_same"] == 0 < row["pages_differ"] for row in relocated)
    (vdso,) = (row for row in found if row["object"] == "[vdso]")
    assert vdso["pages_same"] == vdso["pages_both"] > 0
    assert {row["pages_both"] for row in found if row["object"] == "[stack]"} <= {None, 0}  # elsewhere, unless by chance


@needs_root
@pytest.mark.parametrize("via", ["kernel", "reflective"])
def test_of_a_program_at_a_phase(one: int, via: str) -> None:
    found = rows("--shared", one, "--via", via, "--at", "main", "--", "/bin/cat")
    (text,) = (row for row in found if row["object"].endswith(LIBC) and row["prot"] == 5)
    check(text)
    assert text["pages_same"] == text["pages_both"] > 20


@needs_root
def test_after_a_fork_until_it_is_written(tmp_path: Path) -> None:
    subprocess.run(["gcc", "-O1", PROGRAMS / "forker.c", "-o", tmp_path / "forker"], check=True, timeout=60)
    with subprocess.Popen([tmp_path / "forker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        address, child = parent.stdout.readline().split()
        seen = []
        for _ in range(2):
            (row,) = (row for row in rows("--shared", child, parent.pid) if row["start"] == int(address, 16))
            seen.append([row[f"pages_{name}"] for name in ("here", "there", "both", "same", "differ")])
            if len(seen) == 1:
                parent.stdin.write("x")
                parent.stdin.flush()
                assert parent.stdout.readline() == "written\n"
        parent.kill()
    assert seen == [[16, 16, 16, 16, 0], [16, 16, 16, 12, 4]]


@needs_root
def test_text(one: int, other: int) -> None:
    done = maps("--shared", other, one)
    assert "KiB of memory are the same page frames in both processes." in done.stdout
    assert f"process {one} with process {other}" in done.stdout


@needs_root
def test_with_itself(one: int) -> None:
    done = maps("--shared", one, one)
    assert (done.returncode, done.stdout) == (1, "")
    assert "shares everything with itself" in done.stderr


@needs_root
def test_without_privilege_it_says_what_is_missing(one: int, other: int) -> None:
    command = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all", *COMMAND, "--shared", str(other), str(one)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "reflective: page frame numbers are kept from this process: be root (CAP_SYS_ADMIN in the first user namespace)\n"
    )


def test_not_with_diff() -> None:
    done = maps("--shared", 1, "--at", "entry", "--diff", "main", "--", "/bin/true")
    assert done.returncode == 2
    assert "--shared and --diff" in done.stderr
