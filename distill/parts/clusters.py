"""k-means that depends on nothing but its data."""

from __future__ import annotations

import torch
from torch import Tensor


def balanced_start(count: int, clusters: int) -> Tensor:
    """[count] int64: neighbours together, clusters as equal as can be."""
    return torch.arange(count) * clusters // count


def k_means(points: Tensor, clusters: int, steps: int = 100) -> Tensor:
    """Cluster [n] int64 of each of n points [n,d], by Lloyd's algorithm; no cluster is left empty.

    The first centre is the point farthest from the mean, each further one the point farthest from all centres so
    far. A cluster that loses all its points takes the one that lies farthest from its own centre.
    """
    points = points.double()
    centres = points[(points - points.mean(0)).norm(dim=1).argmax()][None]
    while len(centres) < clusters:
        centres = torch.cat([centres, points[torch.cdist(points, centres).amin(1).argmax()][None]])
    belongs = torch.full((len(points),), -1, device=points.device)
    for _ in range(steps):
        distance = torch.cdist(points, centres)
        before, belongs = belongs, _none_empty(distance.argmin(1), distance, clusters)
        if torch.equal(before, belongs):
            break
        centres = torch.stack([points[belongs == k].mean(0) for k in range(clusters)])
    return belongs


def _none_empty(belongs: Tensor, distance: Tensor, clusters: int) -> Tensor:
    belongs = belongs.clone()
    for k in range(clusters):
        if not bool((belongs == k).any()):
            sizes = torch.bincount(belongs, minlength=clusters)
            own = distance.gather(1, belongs[:, None])[:, 0]
            belongs[own.masked_fill(sizes[belongs] < 2, -1.0).argmax()] = k
    return belongs
