"""Studies: the open questions of the papers, one command each, answered on the data at hand."""

from embedcal.studies.listing import Listed, studies
from embedcal.studies.preset import Preset, preset
from embedcal.studies.result import Block, Cost, Study
from embedcal.studies.rows import Row, Score
from embedcal.studies.running import study

__all__ = [
    "Block",
    "Cost",
    "Listed",
    "Preset",
    "Row",
    "Score",
    "Study",
    "preset",
    "studies",
    "study",
]
