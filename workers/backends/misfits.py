"""PURE. Why a value does not fit its tensor: one sentence with the path, such as `X[0] is null, and a number is wanted`.

For messages only: it looks at each element, which takes much longer than to build the tensor.
"""

from typing import Any

import numpy as np
import orjson

_SHOWN_DIGITS = 40


def misfit(
    path: str, dtype: np.dtype[Any], shape: tuple[int | None, ...], value: Any, *, takes_null: bool
) -> str | None:
    """The first reason why `value` is no example of a tensor of `shape`; None when it is one.

    `shape` has no batch dimension; a size of None is open. With `takes_null` an element may be null.
    """
    if not shape:
        return _misfit_of_element(path, dtype, value, takes_null=takes_null)
    if type(value) is not list:
        return f"{path} is {_kind_of(value)}, and a list is wanted"
    size = shape[0]
    if size not in (None, len(value)):
        values = "1 value" if len(value) == 1 else f"{len(value)} values"
        return f"{path} has {values}, {size} {'is' if size == 1 else 'are'} wanted"
    inner = shape[1:]
    for index, element in enumerate(value):
        found = misfit(f"{path}[{index}]", dtype, inner, element, takes_null=takes_null)
        if found is not None:
            return found
        if index == 0:
            # An open size is that of the first element.
            inner = _sizes_of(element, inner)
    return None


def _misfit_of_element(path: str, dtype: np.dtype[Any], value: Any, *, takes_null: bool) -> str | None:
    if value is None and takes_null:
        return None
    accepted, wanted = _wanted(dtype)
    if type(value) not in accepted:
        return f"{path} is {_kind_of(value)}, and {wanted} is wanted"
    if dtype.kind in "iu" and type(value) is float and not value.is_integer():
        return f"{path} is {_shown(value)}, and {wanted} is wanted"
    if dtype.kind in "iuf" and not _fits(dtype, value):
        return f"{path} is {_shown(value)}, which does not fit {dtype.name}"
    return None


def _wanted(dtype: np.dtype[Any]) -> tuple[tuple[type, ...], str]:
    """The types of the elements in Python, and their name for users."""
    match dtype.kind:
        case "O":
            return (str,), "a string"
        case "b":
            return (bool,), "true or false"
        case "f":
            return (int, float, bool), "a number"
        case _:
            return (int, float, bool), "an integer"


def _fits(dtype: np.dtype[Any], value: float) -> bool:
    if dtype.kind == "f":
        try:
            with np.errstate(over="ignore"):
                return bool(np.isfinite(np.float64(value).astype(dtype)))
        except OverflowError:
            return False
    limits = np.iinfo(dtype)
    return int(limits.min) <= int(value) <= int(limits.max)


def _sizes_of(value: Any, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """The shape with the sizes of a value that fits it in place of the open ones."""
    sizes: list[int | None] = []
    for size in shape:
        sizes.append(len(value) if value is not None else size)
        value = value[0] if value else None
    return tuple(sizes)


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list):
        return "a list"
    return "an object" if isinstance(value, dict) else "a number"


def _shown(number: float) -> str:
    try:
        return orjson.dumps(number).decode().replace("e+", "e")
    except orjson.JSONEncodeError:
        # An integer beyond 64 bits.
        is_short = abs(number) < 10**_SHOWN_DIGITS
        return str(number) if is_short else f"an integer of more than {_SHOWN_DIGITS} digits"
