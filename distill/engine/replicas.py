"""Gradients of several processes' parts of a batch, made those of the whole batch by torch's composable `replicate`.

Its reducer (DistributedDataParallel's) sums the gradients in buckets while the backward pass goes on. `replicate` looks
at a module's forward: here that is the loss itself on its way into the backward pass. So it does not matter how often
a step calls which nets, nor how many backward passes it does; what a pass leaves without gradient stays without.

Weights are held by every process, and not divided among them by `fully_shard`: in torch 2.15 it takes no weights in
channels_last, and there is no fused SGD for what it makes of them; and methods, averages, checkpoints and exports read
weights outside of a net's forward, where each process has a piece alone. Students are small.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed._composable.replicate import replicate

import distill.parallel as parallel


class Replicas(nn.Module):
    """What one update trains. A scalar loss that passes through it gets the whole batch's gradients.

    The mean over all processes, each by its share of the batch. Of one process the loss stays as it is.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.several = parallel.world() > 1
        if self.several:
            idle = nn.Parameter(parameters[0].detach().new_zeros(1))  # always unused: torch warns where nothing is
            self.held = nn.ParameterList([*parameters, idle])
            replicate(self, find_unused_parameters=True, forward_sync_buffers=False)
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # where a side is 1
            with torch.no_grad():  # its first forward gives all processes the first one's weights
                self(idle.sum())

    def forward(self, loss: Tensor) -> Tensor:
        return parallel.weighed(loss) if self.several else loss
