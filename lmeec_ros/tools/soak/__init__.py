"""`lmeec soak`: the node as a process under hours of random faults, and what became of it."""
