"""Recordings tracked offline: takes and bags cut into units of work, kept, resumed, distributed.

A unit is one set of objects of one recording, from one query camera to one target camera. Its
outcome depends on the recording, the settings and nothing else, so units may be computed in any
order, by any process, and what is put together of them is the same.
"""
