"""The weights that ``lmeec weights`` knows: their presets, URLs, sizes and checksums."""

from __future__ import annotations

import os
from dataclasses import dataclass

from lmeec_core.errors import InputError

__all__ = ["CATALOGUE", "VARIABLE", "Released", "released"]

VARIABLE = "LMEEC_WEIGHTS_URL"
"""Environment variable with the URL of a mirror: a folder with the same files."""

_SAM2 = "https://dl.fbaipublicfiles.com/segment_anything_2/092824"
_SAM2_PAGE = "https://github.com/facebookresearch/sam2"
_LMEEC = "https://drive.google.com/drive/folders/1tc5HNWl0j7BcJE4uX0Bzb6PiYdlIWvXx"
_LMEEC_PAGE = "https://github.com/juneyeeHu/LM-EEC"


@dataclass(frozen=True)
class Released:
    """One file of released weights."""

    name: str
    preset: str
    """The network of these weights, one of :data:`lmeec_core.config.PRESETS`."""
    file: str
    """The file's name, in the cache and on the server."""
    source: str
    """URL of the folder with the file or, if ``direct`` is false, of a page for a browser."""
    page: str
    """The authors' web page."""
    licence: str
    size: int | None = None
    """Bytes; None: unknown."""
    sha256: str | None = None
    """SHA-256 of the file; None: unknown."""
    direct: bool = True
    """Whether the file can be downloaded from ``source``/``file``."""
    mv_moe: bool = False
    """Whether the file has the MV-MoE, which is needed for correspondence between views."""

    def url(self, base: str | None = None) -> str | None:
        """The file's URL; None if it can only be downloaded with a browser.

        Args:
            base: URL of a folder that replaces ``source``; None: $LMEEC_WEIGHTS_URL or, if that is
                not set, ``source``.

        Raises:
            InputError: the base is not an http or https URL.
        """
        given = base or os.environ.get(VARIABLE)
        if given and not given.startswith(("http://", "https://")):
            raise InputError(
                f"{'--url-base' if base else VARIABLE}: {given!r} given, the URL of a folder that "
                f"begins with http:// or https:// expected (for a file on this machine: --file)"
            )
        folder = given or (self.source if self.direct else None)
        return None if folder is None else f"{folder.rstrip('/')}/{self.file}"


def _sam2(size: str, preset: str, length: int, sha256: str) -> Released:
    return Released(
        name=f"sam2_{size}",
        preset=preset,
        file=f"sam2.1_hiera_{size}.pt",
        source=_SAM2,
        page=_SAM2_PAGE,
        licence="Apache-2.0",
        size=length,
        sha256=sha256,
    )


CATALOGUE = {
    one.name: one
    for one in (
        # Meta publishes no checksums. These checksums and sizes are from several public copies that
        # agree, including projects that record them for exactly these URLs.
        _sam2(
            "tiny",
            "sam2_tiny",
            156_008_466,
            "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
        ),
        _sam2(
            "small",
            "sam2_small",
            184_416_285,
            "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
        ),
        _sam2(
            "base_plus",
            "base_plus",
            323_606_802,
            "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
        ),
        _sam2(
            "large",
            "sam2_large",
            898_083_611,
            "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
        ),
        Released(
            name="lm_eec",
            preset="base_plus",
            file="lm_eec.pt",
            source=_LMEEC,
            page=_LMEEC_PAGE,
            licence="none given",
            direct=False,
            mv_moe=True,
        ),
    )
}
"""Name -> the weights, in the order of `lmeec weights list`."""


def released(name: str) -> Released:
    """The weights with this name.

    Raises:
        InputError: the name is unknown; the message lists the names.
    """
    if name not in CATALOGUE:
        raise InputError(f"weights: {name!r} given, one of {list(CATALOGUE)} expected")
    return CATALOGUE[name]
