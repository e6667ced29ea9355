"""Scores weights on simulated takes, another generator's scenes, and real pictures.

``python -m lmeec_core.experiments.measure WORK`` reports scores per source, with intervals over
takes (or pictures); ``--switch`` does the same with parts of the network switched off, and
``--against`` with other weights, from which differences are paired.
"""
