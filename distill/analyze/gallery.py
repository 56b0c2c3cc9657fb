"""All pictures, in the order and the sections of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import distill.analyze.calibration as calibration
import distill.analyze.cka as cka
import distill.analyze.classes as classes
import distill.analyze.correlation as correlation
import distill.analyze.curves as curves
import distill.analyze.gaps as gaps
import distill.analyze.maps as maps
import distill.analyze.probabilities as probabilities
import distill.analyze.tsne as tsne
from distill.analyze.analysis_data import AnalysisData
from distill.analyze.style import Picture

PICTURES: dict[str, Callable[[AnalysisData], Picture | None]] = {
    "curves": curves.draw,
    "gaps": gaps.draw,
    "classes": classes.draw,
    "calibration": calibration.draw,
    "probabilities": probabilities.draw,
    "correlation": correlation.draw,
    "attention": maps.draw,
    "cka": cka.draw,
    "tsne": tsne.draw,
}
SECTIONS = {
    "Accuracy": ("curves", "gaps", "classes"),
    "Answers": ("calibration", "probabilities", "correlation"),
    "Inside": ("attention", "cka", "tsne"),
}


def draw(analysis: AnalysisData, names: Iterable[str] | None = None) -> Iterator[Picture]:
    """The pictures that the run has something for; names: only these."""
    for name in PICTURES if names is None else names:
        if (picture := PICTURES[name](analysis)) is not None:
            yield picture
