"""Values as text for a terminal, by rich."""

from __future__ import annotations

import sys
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..elf.image import ElfImage
from ..errors import printable
from ..plan import steps
from ..plan.build import LoadPlan
from ..plan.reset import CONSTANTS
from ..plan.steps import prot_text


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Whoever has called the view knows what to do when nobody reads on; rich would exit."""
        raise


COLORS = {"r": "green", "w": "yellow", "x": "red"}


def write(what: RenderableType, color: str, file: TextIO | None = None) -> None:
    """Prints, on stdout if nothing else is given. `color` is auto, always or never; only a terminal limits the width."""
    terminal = (file or sys.stdout).isatty()
    console = _Console(
        file=file,
        force_terminal=True if color == "always" else None,
        no_color=True if color == "never" else None,
        highlight=False,
        width=None if terminal else 160,
        color_system="auto" if color != "never" else None,
    )
    console.print(what, soft_wrap=not terminal)


def plan(value: LoadPlan) -> RenderableType:
    """A load plan, step by step. Addresses are relative to bases that every start chooses anew."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    for name, justify in (("step", "right"), ("what", "left"), ("where", "left"), ("size", "right"), ("details", "left")):
        table.add_column(name, justify=justify, no_wrap=name != "details")  # type: ignore[arg-type]
    for number, step in enumerate(value.steps):
        table.add_row(str(number), step.kind, *_cells(step))
    head = [f"executable   {_image(value.executable)}"]
    if value.prefix:
        head.append("arguments    " + " ".join(word.decode(errors="surrogateescape") for word in value.prefix) + " …")
    if value.interpreter:
        head.append(f"interpreter  {_image(value.interpreter)}")
    head += [f"note         {note}" for note in value.notes]
    legend = "\nexe, interp, stack and brk are bases, chosen anew for every start; sizes in bytes."
    return Group(*(Text(printable(line)) for line in head), Text(""), table, Text(legend, style="dim"))


def _image(image: ElfImage) -> str:
    kind = "ET_DYN, goes anywhere" if image.relocatable else "ET_EXEC, at fixed addresses"
    return f"{image.path} ({kind}; {image.identity.size} bytes, {len(image.loads)} segments)"


def _cells(step: steps.Step) -> tuple[str | Text, str, str]:
    """Where, size and details of a step."""
    if isinstance(step, steps.MapFile):
        return (
            _where(step.at),
            f"{step.size:#x}",
            f"{prot_text(step.prot)} {step.file} at {step.offset:#x} (program header {step.segment})",
        )
    if isinstance(step, steps.MapZero):
        return _where(step.at), f"{step.size:#x}", f"{prot_text(step.prot)} anonymous (program header {step.segment}, bss)"
    if isinstance(step, steps.Unmap):
        return (
            _where(step.at),
            f"{step.size:#x}",
            "of the executable, in the span of the interpreter that replaces it",
        )
    if isinstance(step, steps.Zero):
        return _where(step.at), f"{step.size:#x}", f"to the end of the page (program header {step.segment}, bss)"
    if isinstance(step, steps.Call):
        shown = (str(CONSTANTS.get((step.name, arg), arg)) if isinstance(arg, int) else arg for arg in step.args)
        return "", "", f"{step.name}({', '.join(shown)}): {step.why}"
    if isinstance(step, steps.Jump):
        return _where(step.at), "", "all registers 0 but the stack pointer; FPU as after reset"
    if isinstance(step, steps.MapStack):
        return "stack", "", f"{prot_text(step.prot)} grows down, to RLIMIT_STACK"
    if isinstance(step, steps.SetMm):
        return "", "", f"code {_range(step.code)}, data {_range(step.data)}"
    if isinstance(step, steps.SetName):
        return "", "", printable(step.name)
    return "", "", (type(step).__doc__ or "").partition("\n")[0].rstrip(".")


def _where(at: steps.At) -> str:
    return f"{at.base}+{at.offset:#x}"


def _range(pair: tuple[int, int]) -> str:
    return f"exe+{pair[0]:#x}…{pair[1]:#x}"
