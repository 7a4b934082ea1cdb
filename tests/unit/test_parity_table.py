"""docs/kernel-parity.md: every row names a test that exists, or says why there is none; every reference leads to a section."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/kernel-parity.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in re.split(r"(?m)^## ", TEXT)[1:]}
SHORT = {"state": "test_state", "callers_state": "test_callers_state"}
FUNCTIONS = "Function by function"


def rows(section: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = [line for line in SECTIONS[section].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def names_in(cell: str) -> list[tuple[str, str]]:
    """The files named in a row's last cell, each with the cases in quotes."""
    return re.findall(r'(\w+)(?: "([^"]*?)…?")?', cell)


ROWS = [(section, row) for section in SECTIONS if section != FUNCTIONS for row in rows(section)]


@pytest.mark.parametrize(("section", "row"), ROWS, ids=[f"{section}: {row[0][:50]}" for section, row in ROWS])
def test_row_has_a_test_or_a_reason(section: str, row: list[str]) -> None:
    assert len(row) == 3, "three cells"
    cell = row[2].strip("| ")
    if cell.startswith("none: "):
        assert section not in ("Finding and checking the file", "The task", "The address space"), "what is done is tested"
        return
    assert names_in(cell), "neither a test nor the reason why there is none"
    for name, cases in names_in(cell):
        [path] = (ROOT / "tests").glob(f"*/{SHORT.get(name, name)}.py")
        assert not cases or has_case(path, cases), f"{path.name} has no case {cases!r}"


def has_case(path: Path, begins: str) -> bool:
    """The tables of test_bad_files are put together from several; elsewhere a case's name is in the file itself."""
    if path.stem != "test_bad_files":
        return begins.strip() in path.read_text()
    sys.path.insert(0, str(path.parent))
    from test_bad_files import CASES

    return any(case.name.startswith(begins.strip()) for case in CASES)


@pytest.mark.parametrize("row", rows(FUNCTIONS), ids=lambda row: row[1][:50])
def test_function_leads_to_a_section(row: list[str]) -> None:
    """So does its last cell, unless it says that there is nothing, or that fork does it."""
    here = row[2].strip("| ")
    known = [*SECTIONS, "Finding and checking", "no effect", "fork", "start_thread"]
    assert any(word in here for word in known), here


def test_the_comparison_is_of_something() -> None:
    assert len(ROWS) > 50
    assert len(rows(FUNCTIONS)) > 35
    assert ("test_bad_files", "path: ") in names_in('test_bad_files "path: …"')
    assert not has_case(ROOT / "tests/kernel/test_bad_files.py", "no such case: ")
