"""What `lmeec train` can train: LM-EEC on takes (egoexo4d), the small network on scenes (nano)."""
