"""Methods that find correspondences, by name; each of them makes trackers."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from lmeec_core.correspondence import Method
from lmeec_core.errors import InputError

_METHODS = {
    "lm-eec": "lmeec_core.methods.lm_eec:load",
    "colour": "lmeec_core.methods.pairs:colour",
    "template": "lmeec_core.methods.pairs:template_matching",
    "sift": "lmeec_core.methods.pairs:key_points",
}
METHODS = tuple(_METHODS)
"""Names that :func:`load_method` knows."""


def load_method(name: str = "lm-eec", **settings: Any) -> Method:
    """Load a method.

    Args:
        name: one of :data:`METHODS`.
        settings: of ``lm-eec`` the arguments of :func:`lmeec_core.load_model`; of ``colour`` the
            ``threshold``; the others have none.

    Raises:
        InputError: an unknown name, or settings that the method refuses.
    """
    if name not in _METHODS:
        raise InputError(f"method {name!r} given, one of {', '.join(METHODS)} expected")
    module, _, function = _METHODS[name].partition(":")
    load: Any = getattr(importlib.import_module(module), function)
    try:
        inspect.signature(load).bind(**settings)
    except TypeError as error:
        raise InputError(f"settings of method {name!r}: {error}") from error
    method: Method = load(**settings)
    return method
