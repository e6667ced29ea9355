"""Methods that find correspondences, by name; each of them makes trackers."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lmeec_core.errors import InputError

if TYPE_CHECKING:  # the command line reads the names, and does not wait for torch
    from lmeec_core.correspondence import Method

_METHODS = {
    "lmeec": "lmeec_core.methods.lm_eec:load",
    "omama": "lmeec_core.methods.omama.tracker:load",
    "colour": "lmeec_core.methods.pairs:colour",
    "template": "lmeec_core.methods.pairs:template_matching",
    "sift": "lmeec_core.methods.pairs:key_points",
}
_OTHER_NAMES = {"lm-eec": "lmeec"}
METHODS = tuple(_METHODS)
"""Names that :func:`load_method` knows from the start."""


def register_method(name: str, place: str) -> None:
    """Make a method of another package known in this process.

    Args:
        name: of the method.
        place: the function that loads it, as "module:function"; its arguments are the method's
            settings. It is imported when the method is loaded.

    Raises:
        InputError: the name is taken by another method, or the place is not of this form.
    """
    if place.count(":") != 1 or name in _OTHER_NAMES or _METHODS.get(name, place) != place:
        raise InputError(
            f"method {name!r} at {place!r} given, a new name and module:function expected"
        )
    _METHODS[name] = place


def method_name(name: str) -> str:
    """The name by which a method is known; some have others as well.

    Raises:
        InputError: an unknown one.
    """
    known = _OTHER_NAMES.get(name, name)
    if known not in _METHODS:
        raise InputError(f"method {name!r} given, one of {', '.join(_METHODS)} expected")
    return known


def load_method(name: str = "lmeec", **settings: Any) -> Method:
    """Load a method.

    Args:
        name: one of :data:`METHODS`, or registered.
        settings: of ``lmeec`` the arguments of :func:`lmeec_core.load_model`; of ``colour`` the
            ``threshold``; ``template`` and ``sift`` have none; of ``omama`` see
            :func:`lmeec_core.methods.omama.tracker.load`.

    Raises:
        InputError: an unknown name, or settings that the method refuses.
    """
    load = _function(name)
    try:
        inspect.signature(load).bind(**settings)
    except TypeError as error:
        raise InputError(f"settings of method {name!r}: {error}") from error
    method: Method = load(**settings)
    return method


def load_with(name: str, settings: Mapping[str, Any]) -> Method:
    """Load a method with those of the settings that it has; see :func:`without_effect`."""
    own = {k: v for k, v in settings.items() if has_setting(name, k)}
    return load_method(name, **{_argument(name, k): v for k, v in own.items()})


def has_setting(name: str, setting: str) -> bool:
    """Whether a method has a setting of this name."""
    return _argument(name, setting) in inspect.signature(_function(name)).parameters


def _argument(name: str, setting: str) -> str:
    """The argument that takes a setting: a preset is one of the things that `model` may be."""
    known = inspect.signature(_function(name)).parameters
    return "model" if setting == "preset" and setting not in known else setting


def without_effect(name: str, given: Iterable[str]) -> str | None:
    """What to say of parameters that a method does not have; None if it has all of them.

    Args:
        name: of the method.
        given: full names of parameters of the groups that are for methods, as "model.seed" or
            "memory.capacity". A parameter of the group `model` is a setting by its last name; any
            other group is one setting.
    """
    # A device is given for the machine, not for the method.
    asked = [one for one in given if one != "model.device"]
    unused = [one for one in asked if not has_setting(name, _setting(one))]
    if not unused:
        return None
    return f"method {method_name(name)}: it has no {', '.join(unused)}; no effect"


def _setting(parameter: str) -> str:
    group, _, rest = parameter.partition(".")
    return rest if group == "model" else group


def _function(name: str) -> Callable[..., Any]:
    module, _, function = _METHODS[method_name(name)].partition(":")
    load: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return load
