"""Published tables as data, run again: ours beside theirs, each number with its tolerance.

Nothing here imports torch; ``embedcal.reproducing.running`` does the work.
"""

from embedcal.reproducing.reading import recipe, recipe_names, recipes
from embedcal.reproducing.recipe import Column, Part, Planned, Recipe, Row, Tolerance

__all__ = [
    "Column",
    "Part",
    "Planned",
    "Recipe",
    "Row",
    "Tolerance",
    "recipe",
    "recipe_names",
    "recipes",
]
