"""MV-MoE in another kind of network: a space-time memory network, trained and scored on simulated
scenes (``python -m lmeec_core.experiments.space_time``)."""
