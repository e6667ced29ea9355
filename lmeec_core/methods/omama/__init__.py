"""O-MaMa (ICCV 2025): the object's mask is chosen among candidate masks of the target view."""

from lmeec_core.methods.omama.loss import contrastive_loss
from lmeec_core.methods.omama.match import Matched, build, match
from lmeec_core.methods.omama.negatives import training_candidates
from lmeec_core.methods.omama.weights import load_matcher

__all__ = ["Matched", "build", "contrastive_loss", "load_matcher", "match", "training_candidates"]
