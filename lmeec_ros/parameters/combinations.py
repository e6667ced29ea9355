"""Parameters that are right by themselves but do not fit together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lmeec_ros.parameters.files import ParameterError
from lmeec_ros.parameters.spec import suggestion
from lmeec_ros.parameters.table import TEXT


def check_cameras(query: str, targets: Sequence[str], cameras: Sequence[str]) -> None:
    """Refuse a query camera and target cameras that are not there, or not different ones.

    Raises:
        ParameterError: names what was given, and the cameras there are.
    """
    for parameter, names in (("query_camera", (query,)), ("target_cameras", targets)):
        for name in names:
            if name not in cameras:
                raise ParameterError(
                    f"{parameter}: {name!r} given, one of camera_names ({', '.join(cameras)}) "
                    f"expected{suggestion(name, cameras)}"
                )
    if not targets or query in targets or len(set(targets)) < len(targets):
        raise ParameterError(
            f"target_cameras: {list(targets)} given, cameras other than the query camera "
            f"{query!r}, at least one and each once, expected"
        )


def check_settings(checked: Mapping[str, Any], cameras: Sequence[str]) -> None:
    """Refuse settings that rule each other out.

    Args:
        checked: all values, by full name.
        cameras: names of the cameras.

    Raises:
        ParameterError: names both settings, and what is expected.
    """
    if checked["output.lazy"] and checked["pairing.policy"] != "nearest":
        raise ParameterError(
            f"output.lazy: true given with pairing.policy {checked['pairing.policy']!r}, which "
            "needs every target; 'nearest' expected"
        )
    shifted = [name for name in cameras if checked[f"cameras.{name}.time_offset"]]
    if shifted and checked["pairing.policy"] != "nearest":
        raise ParameterError(
            f"cameras.{shifted[0]}.time_offset: given with pairing.policy "
            f"{checked['pairing.policy']!r}, which cannot shift stamps; 'nearest' expected"
        )
    prompted = checked["query_masks.source"] == "prompts"
    if checked["output.lazy"] and prompted:
        raise ParameterError(
            "output.lazy: true given with query_masks.source 'prompts', which needs every camera; "
            "false expected"
        )
    if checked["prompts.checkpoint"] and checked["prompts.preset"] == "same":
        raise ParameterError(
            f"prompts.checkpoint: {checked['prompts.checkpoint']!r} given without its network; "
            "prompts.preset expected as well"
        )


def check_described(described: Sequence[str], objects: Mapping[int, str]) -> None:
    """Refuse texts about objects that label images cannot have.

    Args:
        described: names of the objects that have a text.
        objects: names of the objects by label.

    Raises:
        ParameterError: names the object, and those that there are.
    """
    known = list(objects.values())
    for name in described:
        if name not in known and not re.fullmatch(r"object_[1-9][0-9]{0,4}", name):
            raise ParameterError(
                f"{TEXT.format(object=name)}: object {name!r} is not in objects "
                f"({', '.join(known) or 'empty'}); one of them, or object_<label>, expected"
                f"{suggestion(name, known)}"
            )
