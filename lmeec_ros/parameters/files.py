"""Read parameter files (YAML) exactly like rcl does, but without ROS.

For the node ROS reads the files itself; the offline tools use this module. The rules of
rcl_yaml_param_parser differ from YAML's: repeated sections and groups are merged, `5e-2` is a
number, `012` is 10, `null` is a string, aliases are errors. Its quirks are reproduced on purpose
(see `_Reader`): node and tools must get the same values from a file.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lmeec_core.errors import InputError

logger = logging.getLogger(__name__)

Scalar = bool | int | float | str

KEY = "ros__parameters"
_TRUE = frozenset(["Y", "y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"])
_FALSE = frozenset(["N", "n", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"])
_STRING_TAG = "tag:yaml.org,2002:str"
# Complete texts that C's strtoll (base 0) and strtod accept.
_SPACE = r"[ \t\n\v\f\r]*"
_INTEGER = re.compile(rf"{_SPACE}([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_REAL = re.compile(
    rf"{_SPACE}[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
    r"|(?P<hex>0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)(?:[pP][+-]?[0-9]+)?)"
    r"|(?P<word>[iI][nN][fF](?:[iI][nN][iI][tT][yY])?|[nN][aA][nN](?:\([0-9A-Za-z_]*\))?))"
)
_DOTTED = re.compile(r"[+-]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_SMALLEST = 2.0**-1022
_PART = r"(?:\*\*?|[A-Za-z_][A-Za-z0-9_]*)"
_SECTION = re.compile(rf"/?(?:{_PART}/)*{_PART}")
# If a parameter has values of several types, rclpy uses the first of these types.
_KINDS = ("bool", "int", "float", "str", "bools", "ints", "floats", "strs")


class ParameterError(InputError):
    """A parameter or a parameter file cannot be used.

    The text names the parameter or file, the value or line, and what was expected.
    """


@dataclass(frozen=True)
class ParameterFile:
    """Contents of a parameter file.

    Attributes:
        path: the file.
        sections: node name or pattern ("/**") to the values by full parameter name, in order of
            first occurrence. An empty list is None, as in the node.
    """

    path: Path
    sections: dict[str, dict[str, Any]]

    def values_for(self, node: str) -> dict[str, Any] | None:
        """Return the values for a node, the last one of each; None if no section matches.

        Args:
            node: name with namespace, such as /robot1/lmeec.
        """
        fitting = [values for name, values in self.sections.items() if _fits(name, node)]
        if not fitting:
            return None
        return {name: value for values in fitting for name, value in values.items()}

    def node_called(self, name: str) -> str:
        """Return the full name (with namespace) of the node called `name` that the file is for.

        The file may give one namespace or a pattern; without either, the node has no namespace.

        Raises:
            ParameterError: if the file is for several such nodes; the text names them.
        """
        sections = [_absolute(section) for section in self.sections]
        named = [one for one in sections if "*" not in one and one.rpartition("/")[2] == name]
        if not named and not any(_fits(one, f"/{name}") for one in sections):
            # For patterns such as /*/lmeec and /robot1/*, any matching node will do.
            named = [one for one in (_example(one, name) for one in sections) if one]
        named = list(dict.fromkeys(named))
        if len(named) > 1:
            raise ParameterError(
                f"{self.path}: parameters of several nodes ({', '.join(named)}); choose one, for "
                f"example with --node {named[0]}"
            )
        return named[0] if named else f"/{name}"

    def refusal(self, node: str) -> ParameterError:
        """Return the error that the file has no parameters for a node; it names the file's keys."""
        if not self.sections:
            return ParameterError(
                f'{self.path}: no parameters; "/**:" (every node) or the name of a node, with '
                f'"{KEY}:" below, expected, as in config/lmeec.yaml'
            )
        keys = ", ".join(self.sections)
        return ParameterError(
            f"{self.path}: no parameters for the node {node}, only for {keys}. Start the node with "
            'that name and namespace (tools: --node), or use the key "/**:", which is for every '
            "node"
        )


def read(path: str | os.PathLike[str]) -> ParameterFile:
    """Read a file. A parameter that is set twice for the same nodes is logged.

    Raises:
        ParameterError: if it cannot be read, or rcl would refuse it; the text names the line.
    """
    # Prefer libyaml, which rcl uses, if PyYAML was built with it.
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    reader = _Reader()
    try:
        with Path(path).open("rb") as stream:
            for event in yaml.parse(stream, loader):
                reader.take(event)
    except OSError as error:
        raise ParameterError(f"{path}: cannot be read: {error}") from error
    except (yaml.YAMLError, UnicodeError, _Refused) as error:
        raise ParameterError(
            f"{path}: cannot be read, nor can ROS read it: {error}; a file like "
            f"config/lmeec.yaml, with "
            f'"/**:" (every node) and "{KEY}:" below, expected'
        ) from error
    for text in reader.repeated:
        logger.warning("%s: %s", path, text)
    sections = {name: {s.name: s.value for s in slots} for name, slots in reader.sections.items()}
    return ParameterFile(Path(path), sections)


def refuse_other_nodes(node: str, arguments: Sequence[str], warn: Callable[[str], object]) -> None:
    """Refuse a parameter file without parameters for a node, which ROS silently ignores.

    Args:
        node: name with namespace.
        arguments: command-line arguments of the node's process.
        warn: called with a text if a file cannot be checked.

    Raises:
        ParameterError: if a file is for other nodes only; the text names them.
    """
    for path in given_files(arguments):
        if not Path(path).is_file():
            continue  # a pipe, which ROS has consumed
        try:
            file = read(path)
        except ParameterError as error:  # although ROS could read it
            warn(f"cannot check which nodes a parameter file is for: {error}")
            continue
        if file.values_for(node) is None:
            raise file.refusal(node)


def given_files(arguments: Sequence[str]) -> list[str]:
    """Return the files given with --params-file after --ros-args in command-line arguments."""
    files: list[str] = []
    inside = False
    for number, argument in enumerate(arguments):
        if argument in ("--ros-args", "--"):
            inside = argument == "--ros-args"
        elif inside and argument == "--params-file":
            files += arguments[number + 1 : number + 2]
    return files


def _absolute(name: str) -> str:
    return name if name.startswith("/") else f"/{name}"


def _fits(section: str, node: str) -> bool:
    pattern = _absolute(section).replace("/*", r"(/\w+)")  # turns /** into "(/\w+)*"
    return re.fullmatch(pattern, node, re.ASCII) is not None


def _example(section: str, name: str) -> str | None:
    """A node of that name which matches the section; None if there is none."""
    *spaces, _ = section[1:].split("/")
    parts = ["robot" if part == "*" else part for part in spaces if part != "**"]
    node = "/".join(["", *parts, name])
    return node if _fits(section, node) else None


def scalar(text: str, quoted: bool = False, tag: str | None = None) -> Scalar:
    """Return the value of a YAML scalar: bool, int, float, or else str.

    Args:
        text: text of the scalar.
        quoted: whether it is in quotes, which makes it a string.
        tag: its YAML tag; `!!str` makes it a string.
    """
    if quoted or tag == _STRING_TAG:
        return text
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if found := _INTEGER.fullmatch(text):
        sign, digits = found.groups()
        octal = digits[0] == "0" and digits[1:2] not in ("", "x", "X")
        whole = int(digits, 8) if octal else int(digits, 0) if digits != "0" else 0
        whole = -whole if sign == "-" else whole
        if -(2**63) <= whole < 2**63:
            return whole
    if _DOTTED.fullmatch(text):
        return float(text.replace(".", ""))
    number = _real(text)
    return text if number is None else number


def _real(text: str) -> float | None:
    """The value according to strtod; None if strtod rejects it or reports it as out of range."""
    found = _REAL.fullmatch(text)
    if not found:
        return None
    stripped = text.strip()
    if word := found["word"]:
        value = math.nan if word[0] in "nN" else math.inf
        return -value if stripped[0] == "-" else value
    try:
        value = float.fromhex(stripped) if found["hex"] else float(stripped)
    except OverflowError:
        return None
    digits = re.split("[pP]" if found["hex"] else "[eE]", stripped)[0]
    tiny = abs(value) < _SMALLEST and re.search("[1-9a-fA-F]", digits.replace("0x", "", 1))
    return None if math.isinf(value) or tiny else value


_LAST = "the last one (of different types, the first in this order: bool, integer, float, string)"


class _Refused(Exception):
    """The file contains something that rcl refuses; the text names the line."""


@dataclass
class _Slot:
    """A parameter: its name, and its last value of each type."""

    name: str
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> Any:
        return next((self.found[kind] for kind in _KINDS if kind in self.found), None)


@dataclass
class _Space:
    """A namespace as represented in rcl: a string, and the number of names in it."""

    separator: str
    text: str = ""
    count: int = 0

    def add(self, name: str) -> None:
        joint = "" if not self.count or self.text.endswith(self.separator) else self.separator
        self.text = self.text * bool(self.count) + joint + name
        self.count += 1

    def remove(self) -> None:
        if self.count > 1 and self.separator in self.text:
            self.text = self.text.rpartition(self.separator)[0]
        self.count = max(0, self.count - 1)


class _Reader:
    """Reimplementation of rcl's parser: a state machine over YAML events, without a tree.

    A parser that builds a tree would differ from rcl for unusual files: `pairing: {}` ends the
    level above, the key of a section may be left unclosed, and if a parameter is set twice with
    different types, the type decides which value is used.
    """

    def __init__(self) -> None:
        self.sections: dict[str, list[_Slot]] = {}
        self.repeated: list[str] = []
        self._nodes, self._groups = _Space("/"), _Space(".")
        self._slots: list[_Slot] = []  # parameters of the current section
        self._place = 0  # index of the current parameter in it
        self._in_parameters = False
        self._depth = 0
        self._expects_key = True
        self._new_group = False
        self._in_list = False
        self._list_kind = ""
        self._line = 0

    def take(self, event: Any) -> None:
        self._line = event.start_mark.line + 1
        if isinstance(event, yaml.ScalarEvent):
            if self._expects_key:
                self._take_key(event.value)
                self._expects_key = False
            else:
                self._take_value(event)
                self._expects_key = not self._in_list
        elif isinstance(event, yaml.SequenceStartEvent):
            if self._expects_key or not self._in_parameters:
                raise self._refused("a list where a name is expected")
            self._in_list, self._list_kind = True, ""
        elif isinstance(event, yaml.SequenceEndEvent):
            self._in_list, self._expects_key = False, True
        elif isinstance(event, yaml.MappingStartEvent):
            self._depth += 1
            self._expects_key = True
            first = self._in_parameters and self._depth - (self._nodes.count + 1) == 2
            self._new_group = not first
        elif isinstance(event, yaml.MappingEndEvent):
            self._end_mapping()
        elif isinstance(event, yaml.AliasEvent):
            raise self._refused("an alias (*name), which ROS does not support in parameter files")

    def _refused(self, text: str) -> _Refused:
        return _Refused(f"line {self._line}: {text}")

    @property
    def _slot(self) -> _Slot:
        if self._place >= len(self._slots):
            raise self._refused("a value or a group without a name")
        return self._slots[self._place]

    def _end_mapping(self) -> None:
        if self._in_parameters:
            if self._groups.count:
                self._groups.remove()
            else:
                self._in_parameters = False
        elif self._depth == self._nodes.count + 1:
            self._nodes.remove()
        self._depth -= 1

    def _take_key(self, text: str) -> None:
        if not text:
            raise self._refused("an empty name")
        name = text.partition("\0")[0]
        if self._in_parameters:
            self._take_parameter(name)
        elif not name.startswith(KEY):
            self._nodes.add(name)
        else:
            if not self._nodes.count:
                raise self._refused(f"{KEY} without a node name above it")
            section = self._nodes.text
            if not _SECTION.fullmatch(section):
                raise self._refused(f"{section!r} is neither a node name nor a pattern of names")
            self._slots = self.sections.setdefault(section, [])
            self._nodes.remove()
            self._in_parameters = True

    def _take_parameter(self, name: str) -> None:
        if self._new_group:
            self._groups.text = self._slot.name
            self._groups.count += 1
            self._new_group = False
        group = self._groups.text if self._groups.count else ""
        wanted = group or name
        names = [one.name for one in self._slots]
        self._place = names.index(wanted) if wanted in names else len(names)
        if wanted not in names:
            self._slots.append(_Slot(wanted))
        if group:
            self._slot.name = f"{group}.{name}"

    def _take_value(self, event: Any) -> None:
        quoted = event.style in ("'", '"')
        if not self._in_parameters or not self._slots:
            raise self._refused(f"a value before {KEY}")
        if not quoted and not event.value:
            raise self._refused(f"{self._slot.name} has no value")
        value = scalar(event.value.partition("\0")[0], quoted, event.tag)
        kind = type(value).__name__
        known = any(one.found for one in self._slots if one.name == self._slot.name)
        if known and not (self._in_list and self._list_kind):
            self.repeated.append(
                f"line {self._line}: {self._slot.name} is set again; ROS uses only one value, "
                f"{_LAST}"
            )
        if not self._in_list:
            self._slot.found[kind] = value
            return
        if not self._list_kind:
            self._list_kind = kind
            self._slot.found[f"{kind}s"] = []
        if kind != self._list_kind:
            raise self._refused(
                f"{self._slot.name}: {event.value!r} in a list of another type; elements of one "
                "type expected"
            )
        self._slot.found[f"{kind}s"].append(value)
