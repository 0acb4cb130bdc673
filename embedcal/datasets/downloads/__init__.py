"""Files from stable public addresses, fetched once, checked, and unpacked where nothing else is."""

from embedcal.datasets.downloads.downloading import Download, get, obtain

__all__ = ["Download", "get", "obtain"]
