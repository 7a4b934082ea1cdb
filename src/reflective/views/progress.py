"""A progress bar on stderr: for a person at a terminal, and only if the work takes long."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

PATIENCE = 2.0  # seconds


class Bar:
    """Call it with the number of items done since the last call. It has no thread: the work forks."""

    def __init__(self, what: str, total: int) -> None:
        self._begun = time.monotonic()
        self._what, self._total, self._done = what, total, 0
        self._wanted = sys.stderr is not None and sys.stderr.isatty()
        self._progress: Progress | None = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress:
            self._progress.stop()

    def __call__(self, done: int) -> None:
        """Counts, and draws once it has taken long enough."""
        self._done += done
        if not self._wanted or time.monotonic() - self._begun < PATIENCE:
            return
        if self._progress is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
            self._progress.start()
            self._progress.add_task(self._what, total=self._total)
        self._progress.update(self._progress.task_ids[0], completed=self._done, refresh=True)
