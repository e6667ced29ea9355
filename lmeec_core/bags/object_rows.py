"""Rows of the parameter `objects`, "label:id"; no ROS needed."""

from __future__ import annotations


def object_row(label: int, name: str) -> str:
    """The row of an object; :func:`read_object_row` gives back the same, whatever the id."""
    return f"{label}:{' ' * name.startswith(' ')}{name}"


def read_object_row(row: str) -> tuple[int, str] | None:
    """Label (1 to 65535) and id of a row; None if it is no such row.

    One blank after the colon is part of the syntax. The rest of the id is kept unchanged,
    including blanks at its end.
    """
    label, colon, name = row.partition(":")
    name = name.removeprefix(" ")
    label = label.strip()
    if not (colon and name and label.isdecimal() and len(label) <= 5 and 1 <= int(label) <= 65535):
        return None
    return int(label), name
