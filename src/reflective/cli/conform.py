"""`reflective conform`: a loader held against the kernel, property by property."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..conform.measure import Outcome, Skipped, measure, starts
from ..conform.report import summarise
from ..conform.variants import Compiler
from ..errors import ReflectiveError
from ..views import conform as view
from .exec import complain

OURS = "reflective exec -- {}"
FAILED, USAGE = 1, 2


def show(args: argparse.Namespace) -> int:
    """Prints what was found; 0 if the loader conforms, 1 if it does not."""
    try:
        loader = _command(args.loader)
        with tempfile.TemporaryDirectory(prefix="reflective-conform-") as directory:
            found = list(_measured(args, loader, Path(directory)))
    except ReflectiveError as error:
        complain(str(error))
        return USAGE
    report = summarise(args.loader or OURS, found)
    if args.json:
        print(view.json_total(report))
    else:
        from ..views import text

        text.write(view.report(report), args.color)
    return 0 if report.conforms else FAILED


def _command(loader: str | None) -> list[str]:
    """The loader's command line; its program is looked for in this process's PATH. Raises ReflectiveError."""
    if loader is None:
        return [sys.executable, "-m", "reflective", "exec", "--", "{}"]
    try:
        words = shlex.split(loader)
    except ValueError as error:
        raise ReflectiveError(f"--loader {loader!r}: {error}") from None
    if not any("{}" in word for word in words):
        raise ReflectiveError(f"--loader {loader!r}: there is no {{}} for the program (as in --loader 'ulexecve {{}}')")
    found = shutil.which(words[0]) if "{}" not in words[0] else words[0]
    if found is None:
        raise ReflectiveError(f"--loader {loader!r}: {words[0]} is not found, or has no execute permission")
    return [os.path.abspath(found) if "/" in found else found, *words[1:]]


def _measured(args: argparse.Namespace, loader: list[str], directory: Path) -> Iterator[Outcome | Skipped]:
    from ..views.progress import Bar

    with Bar("starts", len(starts())) as bar:
        for one in measure(loader, Compiler(directory), aslr=not args.no_aslr, exceptions=args.loader is None):
            if args.json:
                print(view.json_lines(one), flush=True)
            bar(1)
            yield one
