"""Rows of the parameter `objects`, "label:id"; no ROS needed."""

from __future__ import annotations


def object_row(label: int, name: str) -> str:
    """The row of an object; :func:`read_object_row` is its inverse for any id."""
    return f"{label}:{' ' * name.startswith(' ')}{name}"


def read_object_row(row: str) -> tuple[int, str] | None:
    """Label (1 to 65535) and id of a row; None if the row is malformed.

    One space after the colon is part of the syntax. The id is otherwise unchanged, including
    trailing spaces.
    """
    label, colon, name = row.partition(":")
    name = name.removeprefix(" ")
    label = label.strip()
    if not (colon and name and label.isdecimal() and len(label) <= 5 and 1 <= int(label) <= 65535):
        return None
    return int(label), name
