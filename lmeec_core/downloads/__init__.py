"""Released weights: the catalogue, and downloads into the cache."""
