"""Infrastructure of the node's process: executor, lifecycle, logging, malloc arenas."""
