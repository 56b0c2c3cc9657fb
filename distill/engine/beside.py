"""Nets measured as they were when an epoch ended, while a GPU takes the steps of the next one.

Steps that are replayed as CUDA graphs leave the host idle, and small nets most of a GPU: a forward of the evaluation
goes to a stream of its own after each step. On a CPU, whose cores the steps keep busy, nothing would be gained.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

Predicted = tuple[Tensor, Tensor]  # logits [M,K] in fp32, and labels [M]


def logits_of(net: nn.Module, images: Tensor) -> Tensor:
    """What a net says of images [B,C,H,W], in fp32 [B,K]."""
    output = net(images)
    logits: Tensor = (output if isinstance(output, Tensor) else output.logits).float()
    return logits


def top1(logits: Tensor, labels: Tensor) -> float:
    """Accuracy in percent of logits [M,K] on labels [M]; waits for the device."""
    return 100 * (logits.argmax(1) == labels).double().mean().item()


def side_stream(device: torch.device) -> Any:
    """A stream for work beside the steps; None on a device that has none."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None


class Beside:
    """Asks copies of nets about `batches`, one batch at each `advance`; `found` alone waits for the device.

    The copies are made, and written, on the device's current stream, which `begin` is to find behind the last step.
    """

    def __init__(
        self,
        batches: Callable[[], Iterable[tuple[Tensor, Tensor]]],
        autocast: Callable[[], AbstractContextManager[Any]],
        device: torch.device,
    ) -> None:
        self.batches, self.autocast, self.device = batches, autocast, device
        self.stream = side_stream(device)
        self.copies: dict[str, nn.Module] = {}
        self._sources: dict[str, nn.Module] = {}
        self._pieces: Iterator[None] = iter(())
        self._found: dict[str, Predicted] = {}

    def begin(self, nets: Mapping[str, nn.Module]) -> None:
        """Take the nets, by name, as they are now; what was found of others is forgotten."""
        for name, net in nets.items():
            self._copy(name, net)
        self._found, self._pieces = {}, self._work(list(nets))

    def advance(self) -> bool:
        """Let the device work on the next batch; False where there was none."""
        with self._on_stream(), torch.no_grad(), self.autocast():
            return next(self._pieces, self) is not self

    def found(self) -> dict[str, Predicted]:
        """What each net says of all images; what has not begun yet is done now."""
        while self.advance():
            pass
        if self.stream:
            here = torch.cuda.current_stream(self.device)
            here.wait_stream(self.stream)
            for tensor in (each for pair in self._found.values() for each in pair):
                tensor.record_stream(here)
        return self._found

    def accuracies(self) -> dict[str, float]:
        """Top-1 accuracy of each net in percent."""
        return {name: top1(*predicted) for name, predicted in self.found().items()}

    def _copy(self, name: str, net: nn.Module) -> None:
        if self._sources.get(name) is not net:
            self._sources[name] = net
            self.copies[name] = copy.deepcopy(net).requires_grad_(False).eval()
            return
        kept, new = ([*each.parameters(), *each.buffers()] for each in (self.copies[name], net))
        with torch.no_grad():
            torch._foreach_copy_(kept, new)

    def _work(self, names: list[str]) -> Iterator[None]:
        for name in names:
            logits, labels = [], []
            for images, targets in self.batches():
                logits.append(logits_of(self.copies[name], images))
                labels.append(targets)
                yield
            self._found[name] = torch.cat(logits), torch.cat(labels)

    def _on_stream(self) -> AbstractContextManager[Any]:
        if not self.stream:
            return nullcontext()
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        return torch.cuda.stream(self.stream)
