"""A look at what enters a module."""

from typing import Any

from torch import Tensor, nn


class Tap:
    """Forward pre-hook, or hook, that keeps a module's input, or output, but only while armed: nothing lingers."""

    def __init__(self) -> None:
        self.armed = False
        self.value: Tensor | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> None:
        if self.armed:
            self.value = inputs[0] if output is None else output

    def arm(self) -> None:
        self.armed, self.value = True, None

    def take(self) -> Tensor | None:
        value, self.armed, self.value = self.value, False, None
        return value
