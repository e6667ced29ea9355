"""Parameters: their table, their files, and the configuration that they make."""
