"""Value: what a frozen dataclass gives, without importing dataclasses."""

from __future__ import annotations

import copy
import pickle

import pytest

from reflective.plan.steps import At, MapFile, MapZero, Step
from reflective.values import Value


class Point(Value):
    """Two numbers, one of which has a default."""

    x: int
    y: int = 7


class Named(Point):
    """With a field more, and another default."""

    name: str = "origin"


def test_fields_by_position_by_name_and_by_default() -> None:
    assert (Point(1, 2).x, Point(1, 2).y) == (1, 2)
    assert Point(1) == Point(x=1) == Point(1, y=7) == Point(y=7, x=1)
    assert Named(1, name="here").y == 7


@pytest.mark.parametrize("wrong", [{}, {"y": 1}, {"x": 1, "z": 2}])
def test_missing_and_unknown_fields(wrong: dict[str, int]) -> None:
    with pytest.raises(TypeError, match="Point: missing or unknown"):
        Point(**wrong)


def test_too_many_values() -> None:
    with pytest.raises(TypeError, match="takes 2 values, 3 given"):
        Point(1, 2, 3)  # type: ignore[call-arg]


def test_a_field_given_twice() -> None:
    with pytest.raises(TypeError):
        Point(1, x=2)  # type: ignore[misc]


def test_equal_by_value_and_type() -> None:
    assert Point(1, 2) != Point(1, 3)
    assert Point(1, 2) != Named(1, 2)
    assert Point(1, 2) != (1, 2)
    at = At("exe", 0)
    assert MapFile(at, 4096, 1, "exe", 0, 0) != MapZero(at, 4096, 1, 0)


def test_hashable() -> None:
    assert len({Point(1), Point(1, 7), Point(2), Named(1)}) == 3


def test_immutable() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="Point is immutable"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="Point is immutable"):
        del point.y
    with pytest.raises(AttributeError, match="Point is immutable"):
        point.other = 3
    assert point == Point(1)


def test_replace() -> None:
    point = Named(1, 2, "here")
    assert point.replace(y=5) == Named(1, 5, "here")
    assert point == Named(1, 2, "here")
    with pytest.raises(TypeError):
        point.replace(z=5)


def test_repr_is_as_written() -> None:
    assert repr(Named(1)) == "Named(x=1, y=7, name='origin')"
    assert repr(At("exe", -8)) == "At(base='exe', offset=-8)"


def test_copies() -> None:
    point = Named(1, 2, "here")
    assert copy.copy(point) == copy.deepcopy(point) == pickle.loads(pickle.dumps(point)) == point


def test_subclasses_have_their_own_fields() -> None:
    assert Point._fields == ("x", "y")
    assert Named._fields == ("x", "y", "name")
    assert Step._fields == ()
    assert MapFile(At("exe", 0), 4096, 1, "exe", 0, 0).kind == "map-file"
