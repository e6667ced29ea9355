"""The `lmeec` command: one file per sub-command."""
