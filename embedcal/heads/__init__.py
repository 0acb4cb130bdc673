"""Heads: what is trained over a cache. One head, one file."""

from embedcal.heads.base import Head, load_head, predict, save_head, torch_device
from embedcal.heads.linear import LinearHead
from embedcal.heads.projection import ProjectionHead, prototypes

HEADS: dict[str, type[Head]] = {head.name: head for head in (LinearHead, ProjectionHead)}

__all__ = [
    "HEADS",
    "Head",
    "LinearHead",
    "ProjectionHead",
    "load_head",
    "predict",
    "prototypes",
    "save_head",
    "torch_device",
]
