"""Programs that are started from a template find what they find after execve."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Unpack

import pytest
from support import Argv, StartOptions, _run, native
from test_state import assert_same, start, start_in

from reflective.conform.documented import table
from reflective.conform.situations import SITUATIONS
from reflective.conform.variants import Compiler

HELPER = str(Path(__file__).parents[1] / "templated.py")

VARIANTS = ["dynamic", "dynamic-no-pie", "dynamic-2m", "dynamic-execstack"]
ORDINARY = ["static", "static-pie", "musl-dynamic", "entry-pie", "entry-static"]
TOO_LARGE = ["longest argument", "1 MiB of arguments", "900 variables"]
NOT_WAITED = "ignored SIGCHLD"  # there is nothing to wait for then


class By:
    """A way to run argv: as a clone (`template`), as one that has waited (`pool`), or without a template, for want of one."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(
        self, argv: Argv, *, aslr: bool = True, **options: Unpack[StartOptions]
    ) -> subprocess.CompletedProcess[bytes]:
        return _run([*([] if aslr else ["setarch", "-R", "--"]), sys.executable, HELPER, self.__name__, *argv], options)


TEMPLATE, POOL, ORDINARILY = By("template"), By("pool"), By("ordinary")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("way", [TEMPLATE, POOL])
def test_start(compiler: Compiler, variant: str, way: By) -> None:
    """Every kind of dynamic program."""
    assert_same(start(native, compiler, variant), start(way, compiler, variant), table())


@pytest.mark.parametrize("variant", ORDINARY)
def test_without_template(compiler: Compiler, variant: str) -> None:
    """What has no dynamic linker, or an unknown one, is started all the same."""
    assert_same(start(native, compiler, variant), start(ORDINARILY, compiler, variant), table())


def test_fixed_addresses(compiler: Compiler) -> None:
    """Without randomisation the kernel puts the tables right below the strings: there is no room to leave in a template."""
    kernel, ours = (start(way, compiler, "dynamic", aslr=False) for way in (native, ORDINARILY))
    assert_same(kernel, ours, table())


@pytest.mark.parametrize("name", [name for name in SITUATIONS if name != NOT_WAITED])
def test_inherited(compiler: Compiler, name: str) -> None:
    """Whatever the starting process hands on, or sets and execve takes back."""
    way = ORDINARILY if name in TOO_LARGE else TEMPLATE
    kernel, ours = (start_in(SITUATIONS[name], one, compiler, "dynamic") for one in (native, way))
    assert_same(kernel, ours, table(name))
