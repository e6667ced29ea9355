"""Subscriptions and publishers, synchronised sets, conversion between messages and arrays."""
