"""Scripts that a template of the shell runs."""

from __future__ import annotations

import subprocess
from typing import Any

from reflective import Template
from reflective.template.warm import Warm

SHELL = "/bin/bash"  # whose descriptors may have two digits


def warm(template: Template) -> list[Warm]:
    """The template processes there are."""
    return [one for one in template._warm.values() if isinstance(one, Warm)]


def say(template: Template, script: str, *arguments: str, **keywords: Any) -> str:
    """What a script prints."""
    done = template.run(["sh", "-c", script, *arguments], capture_output=True, text=True, timeout=30, **keywords)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def same(template: Template, script: str, **keywords: Any) -> str:
    """What a script prints: the same as when subprocess starts it."""
    ours = say(template, script, **keywords)
    command = ["sh", "-c", script]
    expected = subprocess.run(command, executable=SHELL, capture_output=True, text=True, timeout=30, check=True, **keywords)
    assert ours == expected.stdout
    return ours
