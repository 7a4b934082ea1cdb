"""`reflective plan`: what would be done, without doing it."""

from __future__ import annotations

import argparse
import os

from ..errors import LoadError
from ..plan.build import search
from ..views import json, text
from .exec import complain, status_of


def show(args: argparse.Namespace) -> int:
    """Prints the plan; returns the exit status that exec would give if there is none."""
    try:
        plan = search(args.program, os.get_exec_path(), interp=args.interp)
    except (LoadError, ValueError) as error:
        complain(str(error))
        return status_of(error)
    if args.json:
        print(json.plan(plan))
    else:
        text.write(text.plan(plan), args.color)
    return 0
