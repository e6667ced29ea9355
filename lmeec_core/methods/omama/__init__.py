"""O-MaMa (ICCV 2025): chooses an object's mask among candidate masks of the target view."""
