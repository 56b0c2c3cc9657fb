"""Embeddings of test images in the plane, by t-SNE (van der Maaten and Hinton, JMLR 2008)."""

from __future__ import annotations

import numpy as np
from sklearn.manifold import TSNE
from torch import Tensor

from distill.analyze.material import Material
from distill.analyze.style import COLOURS, MARKERS, Picture, bare, blank


def draw(material: Material) -> Picture | None:
    """None with fewer than ten images."""
    labels = material.labels[material.chosen.embedded].numpy()
    if len(labels) < 10:
        return None
    nets, classes = material.nets, np.unique(labels)
    figure, axes = blank(1, len(nets), (4.6 * len(nets) + 1.2, 4.4))
    for place, (name, net) in zip(axes[0], nets, strict=True):
        points = flat(net.embeddings)
        for index, k in enumerate(classes):
            mine, label = points[labels == k], material.info.class_names[int(k)]
            options = {"color": COLOURS[index], "marker": MARKERS[index], "linewidths": 0, "alpha": 0.8}
            place.scatter(mine[:, 0], mine[:, 1], s=14, label=label, **options)
        place.set_title(f"{name} ({net.name}, {net.embeddings.shape[1]} dimensions)")
        bare(place)
        for spine in place.spines.values():
            spine.set(visible=True, color="#CCCCCC")
    handles, called = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, called, loc="outside right center", title="class", markerscale=1.5)
    caption = (
        f"Embeddings (what enters the classifier) of {len(labels)} test images of {len(classes)} "
        "classes. Axes have no unit; distances between far groups mean little."
    )
    return Picture("tsne", "Embeddings", caption, figure, {"images": len(labels), "classes": classes}, wide=True)


def flat(embeddings: Tensor) -> np.ndarray:
    """[E,D] -> [E,2], the same for the same input."""
    values = embeddings.double().numpy()
    perplexity = min(30.0, (len(values) - 1) / 3)
    made: np.ndarray = TSNE(2, init="pca", perplexity=perplexity, random_state=0).fit_transform(values)
    return made
