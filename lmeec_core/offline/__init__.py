"""Offline tracking: takes and bags divided into units of work that are kept and distributed.

A unit is one set of objects of one recording, from one query camera to one target camera. Its
result depends only on the recording and the settings, so units may be computed in any order, by
any process, and the combined result is the same.
"""
