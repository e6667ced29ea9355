"""The process around the node: executor, lifecycle, logs, memory."""
