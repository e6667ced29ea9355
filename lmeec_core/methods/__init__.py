"""Methods that find correspondences, by name; each one makes trackers."""

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
"""Names of the built-in methods for :func:`load_method`."""


def register_method(name: str, place: str) -> None:
    """Register a method of another package in this process.

    Args:
        name: name of the method.
        place: the function that loads it, as "module:function"; its arguments are the method's
            settings. It is imported when the method is loaded.

    Raises:
        InputError: the name belongs to another method, or the place has another form.
    """
    if place.count(":") != 1 or name in _OTHER_NAMES or _METHODS.get(name, place) != place:
        raise InputError(
            f"method {name!r} at {place!r} given, a new name and module:function expected"
        )
    _METHODS[name] = place


def method_name(name: str) -> str:
    """The canonical name of a method; some methods have several names.

    Raises:
        InputError: the name is unknown.
    """
    known = _OTHER_NAMES.get(name, name)
    if known not in _METHODS:
        raise InputError(f"method {name!r} given, one of {', '.join(_METHODS)} expected")
    return known


def load_method(name: str = "lmeec", **settings: Any) -> Method:
    """Load a method.

    Args:
        name: one of :data:`METHODS`, or registered.
        settings: for ``lmeec`` the arguments of :func:`lmeec_core.load_model`; for ``colour`` the
            ``threshold``; ``template`` and ``sift`` have none; for ``omama`` see
            :func:`lmeec_core.methods.omama.tracker.load`.

    Raises:
        InputError: an unknown name, or invalid settings.
    """
    load = _function(name)
    try:
        inspect.signature(load).bind(**settings)
    except TypeError as error:
        raise InputError(f"settings of method {name!r}: {error}") from error
    method: Method = load(**settings)
    return method


def load_with(name: str, settings: Mapping[str, Any]) -> Method:
    """Load a method, ignoring settings that it does not have; see :func:`without_effect`."""
    own = {k: v for k, v in settings.items() if has_setting(name, k)}
    return load_method(name, **{_argument(name, k): v for k, v in own.items()})


def has_setting(name: str, setting: str) -> bool:
    """Whether a method has a setting of this name."""
    return _argument(name, setting) in inspect.signature(_function(name)).parameters


def _argument(name: str, setting: str) -> str:
    """The argument for a setting: a preset is given as `model`."""
    known = inspect.signature(_function(name)).parameters
    return "model" if setting == "preset" and setting not in known else setting


def without_effect(name: str, given: Iterable[str]) -> str | None:
    """A remark about parameters that a method does not have; None if it has all of them.

    Args:
        name: name of the method.
        given: full names of parameters of the methods' groups, for example "model.seed" or
            "memory.capacity". A parameter of the group `model` is a setting by its last name; any
            other group is a single setting.
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
