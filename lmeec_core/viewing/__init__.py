"""Recordings with masks on them: videos, and Rerun recordings."""
