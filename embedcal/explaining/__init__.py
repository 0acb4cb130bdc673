"""Grad-CAM over a cache: where a head looks, and how much of that is the object."""

from embedcal.explaining.choice import choose
from embedcal.explaining.explanation import Explanation, Sources, aiou, explain
from embedcal.explaining.figure import figure

__all__ = ["Explanation", "Sources", "aiou", "choose", "explain", "figure"]
