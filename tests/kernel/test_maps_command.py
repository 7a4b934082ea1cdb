"""`reflective maps` against /proc and readelf: of a process, and of programs stopped at phases, by both ways of starting."""

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
VIA = ("kernel", "reflective")


def maps(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False, timeout=30)


def rows(*words: str | Path) -> list[dict[str, Any]]:
    done = maps("--json", *words)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert {row["schema"] for row in found} == {"reflective.maps/1"}
    return found


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen(["sleep", "60"]) as child:
        while (
            "sleep" not in Path(f"/proc/{child.pid}/comm").read_text()
            or "libc" not in Path(f"/proc/{child.pid}/maps").read_text()
        ):
            pass
        while Path(f"/proc/{child.pid}/wchan").read_text() == "0":
            pass
        yield child.pid
        child.kill()


def test_every_line_of_a_process(sleeper: int) -> None:
    expected = Path(f"/proc/{sleeper}/maps").read_text().splitlines()
    found = rows(str(sleeper))
    assert [f"{row['start']:08x}-{row['end']:08x}" for row in found] == [line.split()[0] for line in expected]
    assert [row["offset"] for row in found] == [int(line.split()[2], 16) for line in expected]
    assert [row["path"] for row in found] == [" ".join(line.split()[5:]) for line in expected]
    rollup = dict(line.split(":") for line in Path(f"/proc/{sleeper}/smaps_rollup").read_text().splitlines()[1:])
    assert sum(row["rss"] for row in found) == int(rollup["Rss"].split()[0]) * 1024


def headers(path: str) -> list[list[str]]:
    text = subprocess.run(["readelf", "-lW", path], capture_output=True, text=True, check=True).stdout
    lines = [line.replace("R E", "RE").split() for line in text.splitlines() if line.startswith("  ") and " 0x" in line]
    return [words for words in lines if len(words) >= 7 and not words[0].startswith("[")]


@pytest.mark.parametrize("name", ["/sleep", "/libc.so.6", "/ld-linux-x86-64.so.2"])
def test_segments_are_those_of_readelf(sleeper: int, name: str) -> None:
    mine = [row for row in rows(str(sleeper)) if row["object"].endswith(name)]
    known = headers(mine[0]["object"])
    loads = [index for index, words in enumerate(known) if words[0] == "LOAD"]
    assert sorted({row["segment"] for row in mine}) == loads
    for row in mine:
        if row["inode"]:
            assert int(known[row["segment"]][1], 16) & -4096 <= row["offset"]
    (relro,) = (words for words in known if words[0] == "GNU_RELRO")
    bias = mine[0]["start"] - (int(known[loads[0]][2], 16) & -4096)
    start, end = int(relro[2], 16) + bias, int(relro[2], 16) + bias + int(relro[5], 16)
    protected = [row for row in mine if row["relro"]]
    assert protected[0]["start"] == start & -4096
    assert protected[-1]["end"] == end & -4096


@pytest.mark.parametrize("via", VIA)
def test_phases_differ(via: str) -> None:
    before = {row["object"].rpartition("/")[2] for row in rows("--via", via, "--at", "interpreter", "--", "/bin/ls")}
    after = {row["object"].rpartition("/")[2] for row in rows("--via", via, "--at", "main", "--", "/bin/ls")}
    assert {"libc.so.6", "[heap]"} <= after - before
    assert {"ls", "ld-linux-x86-64.so.2", "[stack]", "[vdso]"} <= before


@pytest.mark.parametrize("via", VIA)
def test_diff(via: str) -> None:
    found = rows("--via", via, "--at", "interpreter", "--diff", "entry", "--", "/bin/true")
    signs = {(row["sign"], row["object"].rpartition("/")[2]) for row in found}
    assert ("+", "libc.so.6") in signs
    assert ("-", "true") in signs  # its last segment, which RELRO has cut in two
    assert [row["relro"] for row in found if row["sign"] == "+" and row["object"].endswith("/true")] == [True, False]
    assert not {row["start"] for row in found if row["sign"] == "~"} & {row["start"] for row in found if row["sign"] == "+"}


def test_the_loader_is_there_until_it_goes() -> None:
    gone = [
        row
        for row in rows("--via", "reflective", "--at", "loader", "--diff", "interpreter", "--", "/bin/true")
        if row["sign"] == "-"
    ]
    assert [row["prot"] for row in gone] == [5, 3]
    assert {row["path"] for row in gone} == {""}


def test_kernel_and_reflective_map_alike() -> None:
    """But for what covers the mmap base."""
    kept = []
    for via in VIA:
        found = rows("--via", via, "--at", "main", "--", "/bin/ls")
        lines = [
            (row["path"], row["prot"], row["offset"], row["end"] - row["start"], row["what"])
            for row in found
            if row["prot"] or row["inode"]
        ]
        kept.append([line for line in lines if line[0]])
    assert kept[0] == kept[1]


def test_text(sleeper: int) -> None:
    done = maps("--color", "always", str(sleeper))
    assert done.returncode == 0
    assert "RELRO: read-only since it was relocated" in done.stdout
    assert "writable code" in done.stdout  # the legend
    assert "\x1b[" in done.stdout
    assert "free" in done.stdout
    assert "\x1b[" not in maps(str(sleeper)).stdout


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["4194304"], 1, "no process 4194304"),
        (["--at", "main", "--", "/no/such"], 127, "/no/such"),
        (["--at", "main", "--diff", "entry", "--", "/bin/true"], 2, "does not come after"),
        (["--at", "nowhere", "--", "/bin/true"], 2, "invalid choice"),
        (["1", "more"], 2, "stands alone"),
        (["--at", "main", "/lib64/ld-linux-x86-64.so.2"], 1, "try --at entry"),
    ],
)
def test_errors_are_one_line(words: list[str], status: int, message: str) -> None:
    done = maps(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
    assert message in done.stderr


def test_permission_refused() -> None:
    """Another user's process, from a child that has become nobody; it imported everything while it was root."""
    if os.geteuid():
        pytest.skip("needs root")
    code = (
        "import os, sys; from reflective.proc import maps, smaps; from reflective.errors import SessionError\n"
        "parent = os.getppid(); os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: smaps.read(parent)\n"
        "except SessionError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        f"/proc/{os.getpid()}/smaps may not be read; it belongs to user 0: be that user, or root (CAP_SYS_PTRACE)"
        in done.stdout
    )
