"""Heads: what is trained over a cache. One head, one file."""

from embedcal.heads.adapter import AdapterHead
from embedcal.heads.attnpool import AttnPoolHead
from embedcal.heads.base import Head, torch_device
from embedcal.heads.clip import ClipHead
from embedcal.heads.files import load_head, save_head
from embedcal.heads.linear import LinearHead
from embedcal.heads.mlp import MlpHead
from embedcal.heads.prediction import Rows, predict
from embedcal.heads.projection import ProjectionHead
from embedcal.heads.text import PROTOTYPES, TEMPERATURES, prototypes, text_states

HEADS: dict[str, type[Head]] = {
    head.name: head for head in (LinearHead, ProjectionHead, AttnPoolHead, AdapterHead, MlpHead)
}

__all__ = [
    "HEADS",
    "PROTOTYPES",
    "TEMPERATURES",
    "AdapterHead",
    "AttnPoolHead",
    "ClipHead",
    "Head",
    "LinearHead",
    "MlpHead",
    "ProjectionHead",
    "Rows",
    "load_head",
    "predict",
    "prototypes",
    "save_head",
    "text_states",
    "torch_device",
]
