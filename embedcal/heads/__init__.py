"""Heads: what is trained over a cache. One head, one file."""

from embedcal.heads.adapter import AdapterHead
from embedcal.heads.attnpool import AttnPoolHead
from embedcal.heads.base import Head, torch_device
from embedcal.heads.clip import ClipHead
from embedcal.heads.context import ContextHead
from embedcal.heads.files import load_head, save_head
from embedcal.heads.linear import LinearHead
from embedcal.heads.mapped import MappedHead
from embedcal.heads.mlp import MlpHead
from embedcal.heads.prediction import Rows, predict
from embedcal.heads.projection import ProjectionHead
from embedcal.heads.templates import TemplatesHead
from embedcal.heads.text import PROTOTYPES, TEMPERATURES, prototypes, text_states

HEADS: dict[str, type[Head]] = {
    head.name: head
    for head in (
        LinearHead,
        ProjectionHead,
        AttnPoolHead,
        AdapterHead,
        MlpHead,
        MappedHead,
        ContextHead,
        TemplatesHead,
    )
}

__all__ = [
    "HEADS",
    "PROTOTYPES",
    "TEMPERATURES",
    "AdapterHead",
    "AttnPoolHead",
    "ClipHead",
    "ContextHead",
    "Head",
    "LinearHead",
    "MappedHead",
    "MlpHead",
    "ProjectionHead",
    "Rows",
    "TemplatesHead",
    "load_head",
    "predict",
    "prototypes",
    "save_head",
    "text_states",
    "torch_device",
]
