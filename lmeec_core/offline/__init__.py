"""Offline tracking: takes and bags are divided into units of work that can be stored and resumed.

A unit is one set of objects of one recording, from one query camera to one target camera. Its
result depends only on the recording and the settings, so units may be computed in any order and
by any process, with the same combined result.
"""
