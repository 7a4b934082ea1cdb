"""Planning: from a file to the steps that load it. No process is touched here.

`reflective.plan` is both this package and the function that people call, `reflective.plan(path)`: calling the package is
calling `build` (modules may have a class of their own: Python's language reference, 3.3.2.1).
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .build import LoadPlan


class _Package(type(sys)):  # type: ignore[misc]  # types.ModuleType, without importing types
    def __call__(self, *args: object, **named: object) -> LoadPlan:
        from .build import build

        return build(*args, **named)  # type: ignore[arg-type]


sys.modules[__name__].__class__ = _Package
