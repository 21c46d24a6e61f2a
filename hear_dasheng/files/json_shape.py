"""The shape that a JSON value must have, written as a Python value of the same form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hear_dasheng.files.strict_json import JsonProblem, json_type

Shape = Any
"""One of: `str`, `bool`, `int`, `float` (whole numbers too), `None`, `dict`; a function that returns what is
wrong with a value (an empty string: nothing); `[shape]` for a list of any length; `{str: shape}` for an
object with any keys; `{"key": shape, "other?": shape}` for an object with these keys (those with `?` may be
absent, others are ignored); `(shape, shape)` for alternatives."""

NAMES = {str: "a string", bool: "a boolean", int: "a whole number", float: "a number", dict: "an object"}


def check_shape(value: Any, shape: Shape, origin: str) -> None:
    """Raise unless a JSON value has a shape.

    Args:
        value: of a JSON file.
        shape: what it must be.
        origin: the file, for the message.

    Raises:
        JsonProblem: naming the file, the place in it, and what stands there.

    >>> check_shape({"a": [1, 0.5]}, {"a": [float], "b?": str}, "x.json")
    >>> check_shape({"a": [1, "2"]}, {"a": [float]}, "x.json")
    Traceback (most recent call last):
    ...
    hear_dasheng.files.strict_json.JsonProblem: x.json: a[1] is a string ('2'), not a number
    """
    if fault := _fault(value, shape, ""):
        raise JsonProblem(f"{origin}: {fault}")


def fraction(value: Any) -> str:
    """Return what is wrong with a value that should be a number from 0 to 1."""
    if fault := _fault(value, float, "it"):
        return fault.removeprefix("it ")
    return "" if 0 <= value <= 1 else f"is {value!r}, not a number from 0 to 1"


def _fault(value: Any, shape: Shape, place: str) -> str:
    """Return what is wrong, beginning with the place; an empty string if nothing is."""
    if isinstance(shape, tuple):
        faults = [_fault(value, one, place) for one in shape]
        return "" if not all(faults) else faults[0]
    if isinstance(shape, list):
        return _wrong(value, list, "a list", place) or _first(
            _fault(one, shape[0], f"{place}[{index}]") for index, one in enumerate(value)
        )
    if isinstance(shape, dict):
        return _wrong(value, dict, "an object", place) or _fault_in_object(value, shape, place)
    if shape is None:
        return "" if value is None else _described(value, "null", place)
    if isinstance(shape, Callable) and not isinstance(shape, type):
        fault = shape(value)
        return f"{place} {fault}" if fault else ""
    kinds = (int, float) if shape is float else shape
    return _wrong(value, kinds, NAMES[shape], place)


def _fault_in_object(value: dict[str, Any], shape: dict[Any, Shape], place: str) -> str:
    if str in shape:
        return _first(_fault(inner, shape[str], _joined(place, key)) for key, inner in value.items())
    for name, inner in shape.items():
        key = name.removesuffix("?")
        if key in value:
            if fault := _fault(value[key], inner, _joined(place, key)):
                return fault
        elif key == name:
            return f"it has no {_joined(place, key)}"
    return ""


def _wrong(value: Any, kinds: Any, expected: str, place: str) -> str:
    is_unwanted_flag = isinstance(value, bool) and kinds is not bool
    if isinstance(value, kinds) and not is_unwanted_flag:
        return ""
    return _described(value, expected, place)


def _described(value: Any, expected: str, place: str) -> str:
    shown = repr(value)
    shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
    return f"{place or 'it'} is {json_type(value)} ({shown}), not {expected}"


def _joined(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _first(faults: Any) -> str:
    return next((fault for fault in faults if fault), "")
