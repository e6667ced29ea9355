"""Released weights: which there are, where they come from, and how they get into the cache."""
