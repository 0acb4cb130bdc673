"""Runs mirrored into the trackers that people look at. ``results.jsonl`` stays the truth."""

from embedcal.tracking.adapters import names as trackers
from embedcal.tracking.mirroring import Mirror, follow, track

__all__ = ["Mirror", "follow", "track", "trackers"]
