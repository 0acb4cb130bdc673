"""Maps of embeddings: frozen, and as heads remake them, in two dimensions and in silhouettes."""

from embedcal.mapping.figure import draw
from embedcal.mapping.maps import Map, View, map_run, map_runs
from embedcal.mapping.planes import METHODS
from embedcal.mapping.silhouettes import Silhouette, change, silhouette

__all__ = [
    "METHODS",
    "Map",
    "Silhouette",
    "View",
    "change",
    "draw",
    "map_run",
    "map_runs",
    "silhouette",
]
