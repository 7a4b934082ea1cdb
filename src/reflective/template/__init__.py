"""Templates: a program whose dynamic linker has done its work once, cloned for each start."""

from __future__ import annotations

from .public import Template

__all__ = ["Template"]
