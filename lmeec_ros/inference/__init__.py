"""The worker thread that runs the network, and the processing of one synchronised set."""
