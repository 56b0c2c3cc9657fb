"""Representation transfer: `distill probe RUN --dataset stl10`, a linear layer on a frozen net.

linear (features and the layer) < subject (which net) < experiment (data, recipe, result) < command.
"""

from distill.engine.neighbours import embed
from distill.probe.linear import RECIPES, Recipe, fit_linear

__all__ = ["RECIPES", "Recipe", "embed", "fit_linear"]
