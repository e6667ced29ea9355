"""Health of the node: diagnostics, the reason why nothing is published, the watchdog."""
