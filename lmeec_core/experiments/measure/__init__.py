"""What a set of weights is worth: simulated takes, another generator's scenes, real pictures.

``python -m lmeec_core.experiments.measure WORK`` scores them, per source and with intervals over
takes (pictures); ``--switch`` does the same with parts of the network switched off.
"""
