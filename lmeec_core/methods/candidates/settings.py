"""Settings of the source of candidates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lmeec_core.compact import CompactLMEEC
from lmeec_core.correspondence import Mask
from lmeec_core.errors import InputError
from lmeec_core.methods.candidates.automatic import AutomaticMasks
from lmeec_core.methods.candidates.limits import CandidateLimits
from lmeec_core.methods.candidates.regions import Regions
from lmeec_core.model import LMEEC

Source = Literal["auto", "regions", "sam2", "files", "topic"]
SOURCES: tuple[Source, ...] = ("auto", "regions", "sam2", "files", "topic")


class CandidateSettings(CandidateLimits):
    """The source of candidates, and the limits on them.

    Attributes:
        source: "regions" of homogeneous colour; "sam2", SAM 2.1's automatic mask generation, for a
            network that accepts points; "files", masks made by another program; "topic", the same
            on topics of the node; "auto", regions with a compact network, else sam2.
        crop_layers: for sam2: layer n adds 2^n x 2^n overlapping crops of the image, to find
            smaller objects; each crop takes as long as the image. 0: none.
        file: the file of masks, see :mod:`lmeec_core.methods.candidates.files`.
    """

    source: Source = "auto"
    file: str = ""
    crop_layers: int = Field(0, ge=0, le=3)

    @property
    def limits(self) -> CandidateLimits:
        """The limits alone."""
        return CandidateLimits(**{k: getattr(self, k) for k in CandidateLimits.model_fields})

    def generator(self, model: LMEEC) -> Callable[[npt.NDArray[np.uint8]], Mask] | None:
        """The function that makes candidates from an image; None if they are given with each step.

        Raises:
            InputError: the source sam2 with a network that does not accept points, the source files
                without a file, or crops with another source than sam2.
        """
        if (self.source == "files") != bool(self.file):
            raise InputError(
                f"candidates.source {self.source!r} and candidates.file {self.file!r} given; a "
                "file with 'files', and none with other sources, expected"
            )
        compact = isinstance(model, CompactLMEEC)
        sam2 = self.source == "sam2" or (self.source == "auto" and not compact)
        if self.crop_layers and not sam2:
            raise InputError(
                f"candidates.crop_layers {self.crop_layers} given, which only sam2 has; "
                f"candidates.source {self.source!r}"
                + (" is regions with this network" if self.source == "auto" else " given")
            )
        if self.source in ("files", "topic"):
            return None
        if not sam2:
            return Regions(self.limits)
        return AutomaticMasks(model, self.limits, crop_layers=self.crop_layers)
