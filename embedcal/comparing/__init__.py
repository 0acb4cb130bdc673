"""Runs side by side: which method is better, whether that holds, and which options matter."""

from embedcal.comparing.comparison import Block, Comparison, Pair, Row, compare
from embedcal.comparing.effects import Effect, MethodEffects, Sensitivity, sensitivity

__all__ = [
    "Block",
    "Comparison",
    "Effect",
    "MethodEffects",
    "Pair",
    "Row",
    "Sensitivity",
    "compare",
    "sensitivity",
]
