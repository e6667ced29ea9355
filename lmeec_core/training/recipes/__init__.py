"""The recipes of `lmeec train`: LM-EEC on takes, the small network on scenes, O-MaMa's matcher."""
