"""MV-MoE in a different network: a space-time memory network, trained and scored on simulated
scenes (``python -m lmeec_core.experiments.space_time``)."""
