"""Builds the network for a configuration."""

from __future__ import annotations

import torch

from lmeec_core.compact import CompactLMEEC
from lmeec_core.config import ModelConfig
from lmeec_core.model import LMEEC

__all__ = ["LMEEC", "build_model", "seeded_model"]


def build_model(config: ModelConfig) -> LMEEC:
    """Build an untrained network in evaluation mode, as a torch module.

    Use :func:`lmeec_core.load_model` to get one with weights.
    """
    return (LMEEC if config.matching is None else CompactLMEEC)(config).eval()


def seeded_model(config: ModelConfig, seed: int) -> LMEEC:
    """A network with reproducible random weights; does not change the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(config)
