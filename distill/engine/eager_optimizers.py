"""torch's own optimisers, less the second that they spend on importing the compiler which they then keep out.

`add_param_group`, `step` and others of torch.optim are wrapped in functions that import torch._dynamo in order to tell
it to leave them alone. Nothing here compiles an optimiser, so these classes use what is wrapped: the same arithmetic.
"""

from __future__ import annotations

from inspect import unwrap

import torch
from torch.optim import Optimizer


class _Eager(Optimizer):
    add_param_group = unwrap(Optimizer.add_param_group)
    zero_grad = unwrap(Optimizer.zero_grad)
    state_dict = unwrap(Optimizer.state_dict)
    load_state_dict = unwrap(Optimizer.load_state_dict)


class SGD(_Eager, torch.optim.SGD):
    step = torch.no_grad()(unwrap(torch.optim.SGD.step))


class Adam(_Eager, torch.optim.Adam):
    step = torch.no_grad()(unwrap(torch.optim.Adam.step))


class AdamW(_Eager, torch.optim.AdamW):
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))
