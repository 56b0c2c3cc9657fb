"""Optimisers, and learning rates as a closed form of the step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import distill.engine.eager_optimizers as eager_optimizers
from distill.config import OptimizerSpec
from distill.config.optimizer_options import OPTIMIZER_OPTIONS, check_option, takes_option
from distill.engine.parameter_groups import clip, layer_scales, nets_of, undecayed
from distill.engine.replicas import Replicas


def learning_rate(schedule: OptimizerSpec, step: int, steps: int, epochs: int) -> float:
    """Return the rate of a global step (0-based) of a phase of `epochs` epochs with `steps` updates each.

    `step` decay multiplies by gamma after each milestone: with milestone 150, epoch 151 (1-based) is the first at
    lr x gamma; `exponential` after every epoch. `cosine` and `linear` fall to `lr_min` at the end. A warm-up rises
    linearly over its epochs in all of them, from `warmup_lr` or from a step's share on, and they fall after it;
    `by_epoch` they fall from the first epoch on, of which the warm-up takes the place, and all steps of an epoch have
    the rate of its first (timm's schedulers, torch's CosineAnnealingLR), or, late, that of the epoch before. Raises
    ValueError for another decay.
    """
    lr, warmup = schedule.lr, schedule.warmup_epochs
    if schedule.by_epoch:
        step, steps = max(step // steps - (schedule.by_epoch == "late"), 0), 1
    epoch = step / steps
    if epoch < warmup:
        begin = schedule.warmup_lr
        return lr * (step + 1) / (warmup * steps) if begin is None else begin + (lr - begin) * epoch / warmup
    warmup = 0.0 if schedule.by_epoch else warmup
    kind = schedule.decay
    if kind == "constant":
        return lr
    if kind in ("cosine", "linear"):
        progress = (epoch - warmup) / max(epochs - warmup, 1e-12)
        left = 1 - progress if kind == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
        return schedule.lr_min + (lr - schedule.lr_min) * left
    if kind in ("step", "exponential"):
        passed = step // steps if kind == "exponential" else sum(step >= at for at in drops(schedule, steps))
        return lr * schedule.gamma ** passed
    raise ValueError(f"schedule.decay is {kind!r}: it is one of step, exponential, cosine, linear, constant.")


def drops(schedule: OptimizerSpec, steps: int) -> list[int]:
    """Return the global steps (0-based) at which `step` decay multiplies the rate, of `steps` updates an epoch."""
    return [round(milestone * steps) for milestone in schedule.milestones]


def momentum(schedule: OptimizerSpec, epoch: int) -> float | None:
    """Return the momentum of an epoch (0-based), which rises linearly from `momentum_start` over `momentum_epochs` to
    the optimiser's own (Hinton et al. 2012, arXiv:1207.0580, appendix A.1); None where it stays as it is.
    """
    start, over, last = schedule.momentum_start, schedule.momentum_epochs, schedule.optimizer.get("momentum") or 0.0
    if start is None or over is None:
        return float(last) if schedule.damped else None
    return last + (start - last) * max(1 - epoch / over, 0.0)


def make_optimizer(
    parameters: Sequence[Any], options: Mapping[str, Any], lr: float | Tensor
) -> torch.optim.Optimizer:
    """Return the optimiser that `options` names: torch's fused sgd, adam or adamw, any other from timm.

    Weight decay applies to every parameter, BatchNorm's and biases included, as in the CRD protocol. Raises ValueError
    for an option that the optimiser does not have.
    """
    options = dict(options)
    name = str(options.pop("name", "sgd"))
    for key in options:
        check_option(name, key)
    if name not in OPTIMIZER_OPTIONS:
        return _timm_optimizer(name, parameters, options, float(lr))
    if name == "sgd":
        return eager_optimizers.SGD(parameters, lr=lr, fused=True, **options)
    if "betas" in options:
        options["betas"] = tuple(options["betas"])
    kind = eager_optimizers.Adam if name == "adam" else eager_optimizers.AdamW
    recorded = isinstance(lr, Tensor)  # in a graph, some steps before which run without
    warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
    return kind(parameters, lr=lr, fused=True, capturable=recorded, **options)


def _timm_optimizer(
    name: str, parameters: Sequence[Any], options: dict[str, Any], lr: float
) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2

    try:
        return create_optimizer_v2(list(parameters), opt=name, lr=lr, filter_bias_and_bn=False, **options)
    except TypeError as error:
        raise ValueError(f"the optimiser {name} has no such option ({error}): leave it out.") from error
    except (ValueError, AssertionError, KeyError) as error:
        raise ValueError(f"schedule.optimizer.name={name} is no optimiser that timm knows ({error}).") from error


def without_sgds(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a schedule's optimiser, less those of SGD that its file brings along where another is named."""
    name, sgds = str(optimizer.get("name", "sgd")), ("momentum", "nesterov")
    return {key: value for key, value in optimizer.items() if key not in sgds or takes_option(name, key)}


_OF_THIS_MACHINE = {"lr", "capturable"}  # in a group of an optimiser: a tensor where steps are recorded, and whether


class Stepper:
    """One update's optimiser: backward, scaling for fp16, clipping, step.

    Beside the rate the schedule may ask for a momentum that rises (`momentum`), for gradients that count 1 - momentum
    (`damped`), for moments that are forgotten where the rate drops (`restart`: a new optimiser in the authors' code),
    and for a greatest length of the weights into a unit (`max_norm`: rows of a matrix, filters), to which longer ones
    are shortened after each step.

    A module with an attribute `lr_scale` is trained at that share of the rate.

    late: some parameters get their first gradient after the first step.
    on_device: keep the learning rate in a tensor beside the parameters, where a recorded step finds it.
    """

    late = False

    def __init__(
        self, modules: Iterable[nn.Module], schedule: OptimizerSpec, *, scale: bool = False, on_device: bool = False
    ) -> None:
        modules = list(modules)
        self.parameters = trainable(modules)
        self.scaled: list[Any] = [net for module in modules for net in module.modules() if hasattr(net, "lr_scale")]
        if not self.parameters:
            raise ValueError("an update has nothing to train: all its parameters are frozen.")
        self.schedule, self.lr = schedule, schedule.lr
        self.rate = torch.tensor(self.lr, device=self.parameters[0].device) if on_device else self.lr
        self.nets = nets_of(modules)
        self.gradients = [self.parameters]  # groups that are clipped each by itself
        self.optimizer = self.new_optimizer(dict(schedule.optimizer))
        self.replicas = Replicas(self.parameters)
        self.scaler = torch.amp.GradScaler(self.parameters[0].device.type, enabled=scale)
        self.clip = schedule.clip_grad
        self.heads = {id(p) for net in self.nets for head in net.classifiers for p in head.parameters()}
        self.limited = [p for p in self.parameters if p.ndim > 1] if schedule.max_norm else []
        if schedule.damped or self.late:
            self.begin_momentum()

    def begin_momentum(self) -> None:
        """Let SGD begin with a momentum of 0: `damped` holds for the first gradient too, which torch would take whole,
        and torch's fused step wants a momentum of all parameters or of none, also where some get a gradient later on.
        """
        for parameter in self.parameters if "dampening" in self.optimizer.defaults else ():
            self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @property
    def rate_on_device(self) -> bool:
        """Whether a recorded step finds each new rate: timm's optimisers take numbers alone."""
        return all(isinstance(group["lr"], Tensor) for group in self.optimizer.param_groups)

    def new_optimizer(self, options: dict[str, Any]) -> torch.optim.Optimizer:
        """Return the optimiser of `self.parameters` at `self.rate`, of this name and these options."""
        return make_optimizer(self.groups(), options, self.rate)

    def groups(self) -> list[Any]:
        """The parameters, apart by their share of the rate (the `lr_scale` of the net that they belong to times their
        layer's) and by whether weights decay, where the schedule or a net asks for it.
        """
        scales = {id(p): float(net.lr_scale) for net in self.scaled for p in net.parameters()}
        layers = layer_scales(self.nets, self.schedule.layer_decay) if self.schedule.layer_decay else {}
        scales |= {key: share * scales.get(key, 1.0) for key, share in layers.items()}
        named = self.schedule.no_decay != "norms"
        spared = undecayed(self.parameters, self.nets, named=named) if self.schedule.no_decay else set()
        if not (scales or spared):
            return list(self.parameters)
        apart: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for p in self.parameters:
            apart.setdefault((scales.get(id(p), 1.0), id(p) in spared), []).append(p)
        return [
            {"params": found, "lr": self.rate * scale, "lr_scale": scale} | ({"weight_decay": 0.0} if spares else {})
            for (scale, spares), found in apart.items()
        ]

    def set_lr(self, step: int, steps: int, epochs: int) -> float:
        """Set and return the learning rate of a global step; the momentum that belongs to it is set too."""
        if self.schedule.restart and step in drops(self.schedule, steps):
            self.forget()
        self._set_momentum(step // steps)
        return self.use(learning_rate(self.schedule, step, steps, epochs))

    def _set_momentum(self, epoch: int) -> None:
        value = momentum(self.schedule, epoch)
        for group in self.optimizer.param_groups if value is not None else ():
            if "momentum" in group:  # not an Adam beside the schedule's own optimiser
                group |= {"momentum": value, "dampening": value if self.schedule.damped else 0.0}

    def forget(self) -> None:
        """Go on as a new optimiser would, in the same memory, where recorded steps find it."""
        for group in self.optimizer.param_groups:
            group.pop("step", None)  # where some of timm's count
        for state in self.optimizer.state.values():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    value.zero_()
                elif isinstance(value, (int, float)):
                    state[key] = 0

    def use(self, lr: float) -> float:
        """Take steps of this size from now on; it is returned."""
        for group in self.optimizer.param_groups:
            rate = lr * group.get("lr_scale", 1.0)
            if not isinstance(group["lr"], Tensor):
                group["lr"] = rate
            elif lr != self.lr:
                group["lr"].fill_(rate)
        self.lr = lr
        return lr

    def step(self, losses: Mapping[str, Tensor]) -> None:
        """Minimise the sum of the losses, over the whole batch, by one step."""
        self.begin()
        self.backward(losses)
        self.take()

    def begin(self) -> None:
        """Forget what gradients there are."""
        self.optimizer.zero_grad(set_to_none=True)

    def take(self) -> None:
        """Take the step that the gradients ask for, which `backward` added up since `begin`."""
        if self.clip:
            self.scaler.unscale_(self.optimizer)
            for group in self.gradients:
                clip(group, self.clip, self.schedule.clip_mode, self.heads)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.shorten()
        self.optimizer.zero_grad(set_to_none=True)  # nor do later updates of other nets add to them

    @torch.no_grad()
    def shorten(self) -> None:
        """Bring the weights into each unit to the schedule's `max_norm` where they are longer."""
        for weight in self.limited:
            weight.renorm_(2, 0, self.schedule.max_norm or math.inf)

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Compute gradients of the summed losses."""
        self.differentiate(losses.values())

    def differentiate(self, losses: Iterable[Tensor], *, again: bool = False) -> None:
        """Add the gradients of the sum of these, over the whole batch. again: another pass follows on the same step."""
        self.replicas(self.scaler.scale(torch.stack(list(losses)).sum())).backward(retain_graph=again)

    def state_dict(self) -> dict[str, Any]:
        optimizer = self.optimizer.state_dict()
        for group in optimizer["param_groups"]:
            group["lr"] = self.lr
        return {"optimizer": optimizer, "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        own = [{key: group[key] for key in _OF_THIS_MACHINE & group.keys()} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, kept in zip(self.optimizer.param_groups, own, strict=True):
            group |= kept
        self.use(float(state["optimizer"]["param_groups"][0]["lr"]))  # which a row tells before the next step sets it
        self.scaler.load_state_dict(state["scaler"])


def grouped(parameters: Sequence[Any]) -> list[dict[str, Any]]:
    """What an optimiser is given, parameters or groups of them, as groups."""
    return list(parameters) if isinstance(parameters[0], dict) else [{"params": list(parameters)}]


def trainable(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Return the parameters of the modules that require grad, each once, in module order."""
    found = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
    return list(found.values())
