"""Track and view bags with the node's pairing and message handling, without a running node."""
