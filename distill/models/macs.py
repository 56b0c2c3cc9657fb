"""Counting multiply-accumulates by torch's formulas, without the compiler that torch's own counter imports for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class MacCounter(TorchDispatchMode):
    """Inside it, `macs` adds up those of convolutions, matrix products and attention; to be used without autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True makes torch import torch._dynamo, a second, to keep it out of what is not compiled

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula: Callable[..., int] | None = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.macs += formula(*args, **kwargs, out_val=out) // 2
        return out
