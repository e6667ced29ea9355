"""The compact LM-EEC (preset ``nano``): the released network's stages, made for CPUs."""

from lmeec_core.compact.conv_trunk import ConvTrunk
from lmeec_core.compact.network import CompactLMEEC

__all__ = ["CompactLMEEC", "ConvTrunk"]
