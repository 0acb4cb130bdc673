"""Looking for spurious attributes: over a cache, with a vocabulary, a detector, or neither."""

from embedcal.annotating import Annotation, annotate, annotated, annotation
from embedcal.detecting.detection import Detection, detect, infer, look_for
from embedcal.detecting.effects import Effect
from embedcal.detecting.options import DetectOptions
from embedcal.detecting.presence import Agreement, Presence
from embedcal.detecting.slicing import Slice, Slices, slices
from embedcal.detecting.words import word_directions

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
    "word_directions",
]
