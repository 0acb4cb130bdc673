"""Looking for spurious attributes: over a cache, with a vocabulary, a detector, or neither."""

from embedcal.detecting.annotations import Annotation, annotate, annotated, annotation
from embedcal.detecting.detection import Detection, detect, infer, look_for
from embedcal.detecting.effects import Effect
from embedcal.detecting.options import DetectOptions
from embedcal.detecting.presence import Agreement, Presence
from embedcal.detecting.slicing import Slice, Slices, slices

__all__ = [
    "Agreement",
    "Annotation",
    "DetectOptions",
    "Detection",
    "Effect",
    "Presence",
    "Slice",
    "Slices",
    "annotate",
    "annotated",
    "annotation",
    "detect",
    "infer",
    "look_for",
    "slices",
]
