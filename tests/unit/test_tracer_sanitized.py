"""The tracer's C under sanitizers: whatever tables ask for and programs pass, records are whole (core/tracer_harness.c)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from test_core_sanitized import ROOT, SANITIZERS, WARNINGS, run

SEED = 20_261_121
PROGRAMS = ROOT / "tests" / "programs"


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The harness, with what the tracer calls of the rest."""
    folder = tmp_path_factory.mktemp("tracer")
    sources = [ROOT / "tests/core/tracer_harness.c", ROOT / "csrc/host/attend.c"]
    sources += [path for room in ("tracer", "got") for path in (ROOT / "csrc" / room).glob("*.c")]
    command = ["gcc", *WARNINGS, *SANITIZERS, f"-I{ROOT / 'csrc'}", "-pthread"]
    subprocess.run([*command, *map(str, sources), "-o", folder / "harness"], check=True)
    calls = [PROGRAMS / "calls.c", PROGRAMS / "calls_files.c"]
    subprocess.run(["gcc", "-static", "-w", *map(str, calls), "-o", folder / "calls"], check=True)
    subprocess.run(["gcc", "-static", "-pthread", str(PROGRAMS / "thread_exec.c"), "-o", folder / "thread_exec"], check=True)
    return folder / "harness"


@pytest.mark.parametrize(
    ("words", "rounds", "least"),
    [
        (["calls", "messages"], 20, 500),
        (["calls", "files"], 15, 900),
        (["calls", "waiting"], 10, 300),
        (["thread_exec"], 30, 500),
    ],
)
def test_records_are_whole(
    harness: Path, words: list[str], rounds: int, least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    records, payloads = map(int, run(harness, str(SEED), str(rounds), str(harness.parent / words[0]), *words[1:]).split())
    assert records > least
    assert payloads > records
