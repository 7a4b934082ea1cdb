"""`reflective stack`: the initial stack of a program, as it finds it at its first instruction."""

from __future__ import annotations

import argparse
import os

from ..errors import LoadError, ReflectiveError
from ..observe import stack
from ..plan.build import search
from ..plan.stack import encode
from ..proc import maps
from ..trace.session import ENTRY, INTERPRETER, Session
from ..trace.starts import Program
from ..views import json
from .exec import complain, initial_environment, status_of

FAILED = 1


def show(args: argparse.Namespace) -> int:
    """Prints the stack; returns the exit status. The program is killed before it has done anything."""
    try:
        plan = search(args.program, os.get_exec_path())
        program = Program(plan, tuple(encode(word) for word in (args.program, *args.arguments)), initial_environment())
        with Session(program, args.via) as session:
            session.run_to(INTERPRETER if plan.interpreter else ENTRY)
            registers, space = session.registers(), maps.read(session.pid)
            home = maps.at(space, registers["rsp"])
            memory = session.read(registers["rsp"], home.end - registers["rsp"]) if home else b""
        items = stack.items(memory, registers["rsp"], space)
    except (ReflectiveError, ValueError) as error:
        if isinstance(error, LoadError) and error.hint.startswith("32-bit"):
            error.hint = "a 32-bit program: gdb shows its stack, with starti and x/64wx $esp"
        complain(str(error))
        return status_of(error) if isinstance(error, LoadError) else FAILED
    if args.json:
        print("\n".join(json.stack(args.program, args.via, items, registers)))
        return 0
    from ..views import stack as view
    from ..views import text

    text.write(
        view.picture(items, registers, f"{args.program}: the stack at the first instruction, via {args.via}"), args.color
    )
    return 0
