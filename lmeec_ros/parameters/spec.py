"""A row of the parameter table: type, default, choices, range."""

from __future__ import annotations

import difflib
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmeec_ros.parameters.files import ParameterError

if TYPE_CHECKING:
    # Not imported at run time: parameters can be read without ROS.
    from rcl_interfaces.msg import ParameterDescriptor

Value = bool | int | float | str | list[str] | list[int]


@dataclass(frozen=True)
class Spec:
    """A row of the parameter table.

    `{camera}` in a name stands for the name of each camera, `{object}` for the id of each object
    that has this parameter.

    Attributes:
        name: full name of the parameter.
        default: default value; its type is the type of the parameter.
        description: meaning, with the unit.
        choices: allowed values (strings only); empty if all are allowed.
        minimum: smallest value (numbers only).
        maximum: largest value (numbers only).
        live: whether the parameter can be changed at run time; otherwise it is read-only.
        path: whether it is a path, in which ~ is the home folder.
    """

    name: str
    default: Value
    description: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    live: bool = False
    path: bool = False

    def descriptor(self) -> ParameterDescriptor:
        """Return the descriptor that `ros2 param describe` shows."""
        from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

        descriptor = ParameterDescriptor(description=self.description, read_only=not self.live)
        if self.choices:
            descriptor.additional_constraints = f"one of: {', '.join(self.choices)}"
        if self.minimum is not None and self.maximum is not None:
            if isinstance(self.default, float):
                bounds = FloatingPointRange(from_value=self.minimum, to_value=self.maximum)
                descriptor.floating_point_range = [bounds]
            else:
                limits = IntegerRange(from_value=int(self.minimum), to_value=int(self.maximum))
                limits.step = 1
                descriptor.integer_range = [limits]
        return descriptor

    def check(self, value: Any) -> Value:
        """Return the value converted to the parameter's type, with ~ expanded in a path.

        Raises:
            ParameterError: if type, choice or range is wrong.
        """
        expected = type(self.default)
        if expected is float and type(value) is int:
            value = float(value)  # `tolerance: 1` in a YAML file
        if expected is list:
            value = self._list(value)
        elif type(value) is not expected:
            kind = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
            raise ParameterError(f"{self.name}: {value!r} given, {kind[expected]} expected")
        if self.choices and value not in self.choices:
            hint = suggestion(str(value), self.choices)
            raise ParameterError(
                f"{self.name}: {value!r} given, one of {', '.join(self.choices)} expected{hint}"
            )
        if self.minimum is not None and self.maximum is not None:
            for number in value if expected is list else [value]:
                if not self.minimum <= number <= self.maximum:
                    raise ParameterError(
                        f"{self.name}: {number} given, {self.minimum} to {self.maximum} expected"
                    )
        result: Value = self._without_tilde(value) if self.path else value
        return result

    def _list(self, value: Any) -> list[Any]:
        """The value as a list with elements of the default's type, str or int."""
        assert isinstance(self.default, list)
        kind = type(self.default[0])
        # `list(value)` would split a string into characters.
        given = [] if value is None else value
        listed = isinstance(given, (Sequence, array)) and not isinstance(given, str)
        if not listed or any(not isinstance(v, kind) or isinstance(v, bool) for v in given):
            what = "texts" if kind is str else "whole numbers"
            raise ParameterError(f"{self.name}: {value!r} given, a list of {what} expected")
        return list(given)

    def _without_tilde(self, given: str) -> str:
        found = os.path.expanduser(given)
        if found.startswith("~"):
            raise ParameterError(
                f"{self.name}: {given!r} given, but its home folder is unknown; an absolute path "
                "expected"
            )
        return found


def suggestion(name: str, known: Sequence[str]) -> str:
    """Return "; did you mean ...?" with the known name closest to `name`, or "" if none is."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
