"""Class-agnostic candidate masks of a view: what a method chooses among."""

from lmeec_core.methods.candidates.automatic import AutomaticMasks
from lmeec_core.methods.candidates.limits import CandidateLimits
from lmeec_core.methods.candidates.regions import Regions
from lmeec_core.methods.candidates.settings import CandidateSettings

__all__ = ["AutomaticMasks", "CandidateLimits", "CandidateSettings", "Regions"]
