"""The LM-EEC network. It keeps no state between steps."""

from lmeec_core.model.lmeec import LMEEC
from lmeec_core.model.mv_moe import MVMoE
from lmeec_core.model.results import NO_OBJECT_LOGIT, Prediction, ViewFeatures

__all__ = ["LMEEC", "MVMoE", "NO_OBJECT_LOGIT", "Prediction", "ViewFeatures"]
