"""The pictures in docs/screens: each command still works, each picture is there and shown."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as tree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCREENS = sorted((ROOT / "docs/screens").glob("*.svg"))


@pytest.mark.slow
def test_check() -> None:
    command = [sys.executable, str(ROOT / "tools/record"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("path", SCREENS, ids=lambda path: path.stem)
def test_a_picture_stands_alone(path: Path) -> None:
    """It is XML, has text, and fetches nothing."""
    text = path.read_text()
    root = tree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = "".join(root.itertext())
    assert "reflective" in words
    assert "Traceback" not in words
    assert "url(http" not in text


def test_a_missing_name_is_an_error() -> None:
    command = [sys.executable, str(ROOT / "tools/record"), "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "no such screen: nowhere" in done.stderr) == (2, True)
