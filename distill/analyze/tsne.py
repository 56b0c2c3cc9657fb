"""Embeddings of test images in the plane, by t-SNE (van der Maaten and Hinton, JMLR 2008)."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from torch import Tensor

from distill.analyze.analysis_data import AnalysisData
from distill.analyze.style import Picture
from distill.charts import svg
from distill.charts.panels import panels

_KINDS = (*(f"s{index}" for index in range(8)), "rest", "alone")  # of the ten classes at most


def draw(analysis: AnalysisData) -> Picture | None:
    """None with fewer than ten images."""
    labels = analysis.labels[analysis.chosen.embedded].numpy()
    if len(labels) < 10:
        return None
    nets, classes = analysis.nets, np.unique(labels)
    names = {int(k): analysis.info.class_names[int(k)] for k in classes}
    titles = [f"{name} ({net.name}, {net.embeddings.shape[1]} dimensions)" for name, net in nets]
    drawn = [
        _plane(in_plane(net.embeddings), labels, names, title) for (_, net), title in zip(nets, titles, strict=True)
    ]
    caption = (
        f"Embeddings (what enters the classifier) of {len(labels)} {analysis.part} images of {len(classes)} classes, "
        "each named at its middle. Axes have no unit; distances between far groups mean little."
    )
    drawing, numbers = panels(drawn, "Embeddings in the plane"), {"images": len(labels), "classes": classes}
    return Picture("tsne", "Embeddings", caption, drawing, numbers, wide=len(drawn) > 1)


def _plane(points: np.ndarray, labels: np.ndarray, names: dict[int, str], title: str) -> svg.Drawing:
    kinds = dict(zip(names, _KINDS, strict=False))
    (left, low), (right, high) = points.min(0).tolist(), points.max(0).tolist()

    def draw(width: float) -> Markup:
        frame = svg.Frame(6, 26, width - 12, min(width, 460) * 0.85, (left, right), (low, high))
        parts = [svg.text(0, 13, title, kind="axis")]
        for (x, y), k in zip(points.tolist(), labels.tolist(), strict=True):
            parts.append(svg.dot(*frame.at(x, y), f"sure pale {kinds[k]}", radius=2.6))
        for k, name in names.items():
            x, y = np.median(points[labels == k], 0).tolist()
            parts.append(svg.text(frame.at_x(x), frame.at_y(y) + 4, name[:24], "middle", f"name {kinds[k]}"))
        return svg.svg(parts, width, frame.bottom + 8, title)

    return draw


def in_plane(embeddings: Tensor) -> np.ndarray:
    """[E,D] -> [E,2], the same for the same input."""
    from sklearn.manifold import TSNE  # takes a second, and other pictures need it not

    values = embeddings.double().numpy()
    perplexity = min(30.0, (len(values) - 1) / 3)
    made: np.ndarray = TSNE(2, init="pca", perplexity=perplexity, random_state=0).fit_transform(values)
    return made
