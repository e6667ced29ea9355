"""The thread that runs the network, and what it does with one synchronised set."""
