"""Bags through the node's own pairing and messages, without a running node."""
