"""Recordings shown with their masks: videos, web pages and Rerun recordings."""
