"""O-MaMa (ICCV 2025): the object's mask is chosen among candidate masks of the target view."""
