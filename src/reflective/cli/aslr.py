"""`reflective aslr`: how random addresses are, by the kernel's execve and by reflective."""

from __future__ import annotations

import argparse
import os

from ..errors import ReflectiveError
from ..native.run import addresses_fixed
from ..native.system import system
from ..observe import aslr
from ..plan.build import search
from ..plan.stack import encode
from ..trace.starts import KERNEL, REFLECTIVE, Program, Sample, sample
from ..views import json, plot
from .exec import complain, initial_environment, status_of

FAILED = 1


def show(args: argparse.Namespace) -> int:
    """Prints what was found; returns the exit status."""
    refused = plot.refusal(args.plot) if args.plot else ""
    if refused:
        return _fail(refused, FAILED)
    try:
        plan = search(args.program, os.get_exec_path())
        argv = tuple(encode(word) for word in (args.program, *args.arguments))
        program = Program(plan, argv, initial_environment())
        samples = {via: _sample(program, via, args.runs) for via in _ways(args.via)}
    except ReflectiveError as error:
        return _fail(str(error), status_of(error) if isinstance(error, OSError) else FAILED)
    bases = {via: one.bases for via, one in samples.items()}
    fixed = addresses_fixed()
    findings = aslr.findings(bases, plan, system(), fixed)
    if args.plot:
        plot.aslr(args.plot, bases, f"{args.program}: {args.runs} starts")
    if args.json:
        print("\n".join(line for finding in findings for line in json.aslr(args.program, finding, args.runs)))
        return 0
    from ..views import aslr as view
    from ..views import text

    rates = {via: one.runs / (one.elapsed_ns / 1e9) for via, one in samples.items()}
    text.write(view.table(findings, rates, args.program, args.runs, aslr.summary(plan, system(), fixed)), args.color)
    return 0


def _sample(program: Program, via: str, runs: int) -> Sample:
    from ..views.progress import Bar

    with Bar(f"{via}: starts", runs) as bar:
        return sample(program, via, runs, bar)


def _ways(via: str) -> tuple[str, ...]:
    return (KERNEL, REFLECTIVE) if via == "both" else (via,)


def _fail(message: str, status: int) -> int:
    complain(message)
    return status
