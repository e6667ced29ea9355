"""What the node says of itself: diagnostics, the reasons for silence, the watchdog."""
