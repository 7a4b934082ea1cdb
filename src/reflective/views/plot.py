"""Pictures, by matplotlib: an optional dependency, `pip install reflective[plot]`."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any

COLORS = {"kernel": "tab:blue", "reflective": "tab:orange"}
FORMATS = (".png", ".svg", ".pdf")


def refusal(file: str) -> str:
    """Why this file can't be drawn, "" if it can: asked before the work, not after it."""
    if not file.lower().endswith(FORMATS):
        return f"--plot {file}: the name must end in one of {', '.join(FORMATS)}"
    if importlib.util.find_spec("matplotlib") is None:
        return "--plot needs matplotlib: pip install 'reflective[plot]'"
    where = os.path.dirname(file) or "."
    return "" if os.path.isdir(where) and os.access(where, os.W_OK) else f"--plot {file}: {where} can't be written to"


def aslr(file: str, samples: Mapping[str, Mapping[str, Sequence[int]]], title: str) -> None:
    """Where each region fell: a panel each, with a histogram of all starts over its range, a colour for each way."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(next(iter(samples.values())))
    figure, panels = pyplot.subplots(len(names), 1, figsize=(10, 0.9 * len(names) + 1), squeeze=False)
    for panel, name in zip(panels[:, 0], names, strict=True):
        _panel(panel, name, {via: sample[name] for via, sample in samples.items() if name in sample})
    handles = [matplotlib.patches.Patch(color=COLORS.get(via), alpha=0.6, label=via) for via in samples]
    figure.legend(handles=handles, loc="upper right")
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)


def _panel(panel: Any, name: str, ways: Mapping[str, Sequence[int]]) -> None:
    low = min(min(addresses) for addresses in ways.values())
    high = max(max(addresses) for addresses in ways.values())
    for via, addresses in ways.items():
        panel.hist(addresses, bins=100, range=(low, max(high, low + 1)), color=COLORS.get(via), alpha=0.6)
    panel.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    panel.set_yticks([])
    panel.set_xticks([low, max(high, low + 1)], [f"{low:#x}", f"{high:#x}"], fontsize=7)


def bench(file: str, found: Sequence[tuple[str, str, float, float, float]], title: str) -> None:
    """Bars, a group for each program, a colour for each way: (program, way, median, quartile 1, quartile 3), in µs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    programs = list(dict.fromkeys(program for program, *_ in found))
    ways = list(dict.fromkeys(way for _, way, *_ in found))
    figure, panel = pyplot.subplots(figsize=(max(6, 1.6 * len(programs) + 2), 5))
    width = 0.85 / len(ways)
    for number, way in enumerate(ways):
        bars = [one for one in found if one[1] == way]
        at = [programs.index(program) + (number - (len(ways) - 1) / 2) * width for program, *_ in bars]
        heights = [median for _, _, median, _, _ in bars]
        error = [[median - low for _, _, median, low, _ in bars], [high - median for _, _, median, _, high in bars]]
        panel.bar(at, heights, width, yerr=error, label=way, error_kw={"lw": 0.8})
    panel.set_xticks(range(len(programs)), programs)
    panel.set_yscale("log")
    panel.set_ylabel("µs from call to reaped child (median, quartiles)")
    panel.legend(fontsize=8)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)
