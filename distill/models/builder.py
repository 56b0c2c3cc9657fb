"""build(): a network by name, wrapped as a FeatureNet."""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distill.config.groups import suggestion_or
from distill.config.net_names import is_known, nearest_nets
from distill.config.our_nets import is_sized
from distill.files import first_line
from distill.models.accepted import check_not_reserved, refused_key, unexpected
from distill.models.cifar_net import CifarNet
from distill.models.cifar_reader import CifarReader
from distill.models.families import CONSTRUCTORS
from distill.models.feature_net import FeatureNet
from distill.models.inits import begin_by
from distill.models.reading import Reader


def build(
    name: str,
    num_classes: int,
    *,
    in_chans: int = 3,
    size: int = 32,
    pretrained: bool = False,
    args: dict[str, Any] | None = None,
    inits: Mapping[str, str] | None = None,
    seed: int | None = None,
) -> FeatureNet:
    """Make a network for `size` x `size` images on the CPU.

    name: in timm's registry; ours carry the prefix cifar_ or mnist_. args: keywords of the constructor. inits: rules by
    which nets of these names begin, and those that are made beside this one (schedule.inits); others as their own code
    has it. With a seed the weights are a function of it, and the global random state is untouched.
    Raises ValueError for unknown names (with the nearest), wrong args, sizes that do not fit, weights that cannot be
    had, rules that do not tell of the net, and nets of a plugin that lack what timm's have.
    """
    if not is_known(name):
        hint = suggestion_or(nearest_nets(name), "see timm.list_models()")
        raise ValueError(f"There is no model named {name!r}: {hint}")
    arguments = dict(args or {})
    check_not_reserved(name, arguments)
    recipe = {"name": name, "num_classes": num_classes, "in_chans": in_chans, "size": size, "args": arguments,
              "inits": dict(inits or {})}  # fmt: skip
    with torch.random.fork_rng(devices=[]) if seed is not None else nullcontext():
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        try:
            model = _construct(name, num_classes, in_chans, size, pretrained, arguments)
        except (RuntimeError, OverflowError, MemoryError) as error:
            what = f"{num_classes} classes and {in_chans} input channels"
            raise ValueError(f"{name} cannot be built for {what} ({first_line(error)})") from error
        if (rule := (inits or {}).get(name)) is not None and not pretrained:
            begin_by(model, rule, name)
    _check_contract(model, name)
    read_by = partial(reader_of, model, name, arguments.get("stages"))
    net = FeatureNet(model, read_by, name=name, size=size, in_chans=in_chans, recipe=recipe, build=build)
    net.begun = pretrained
    return net


def _check_contract(model: nn.Module, name: str) -> None:
    contract = ("num_classes", "feature_info", "get_classifier", "forward_head")
    lacking = [each for each in contract if not hasattr(model, each)]
    if lacking:
        raise ValueError(f"{name} cannot be read: it has no {', '.join(lacking)}, as timm's nets have")


def reader_of(model: nn.Module, name: str, stages: Any, image: Tensor) -> Reader:
    """The reader of a network: ours keep their maps, timm's are found by an image [1,C,H,W]."""
    if isinstance(model, CifarNet):
        return CifarReader()
    from distill.models.timm_reader import TimmReader  # imports timm, which takes seconds

    return TimmReader(model, name, image, stages)


def _construct(
    name: str, num_classes: int, in_chans: int, size: int, pretrained: bool, args: dict[str, Any]
) -> nn.Module:
    if name not in CONSTRUCTORS:
        from distill.models.timm_factory import create  # imports timm, which takes seconds

        return create(name, num_classes, in_chans, size, pretrained, args)
    if pretrained:
        instead = "give a file, student.weights, teacher.start or teacher.weights=FILE"
        raise ValueError(f"{name} has no published weights to download: {instead}")
    sized = {"size": size} if is_sized(name) else {}
    made_by: Any = CONSTRUCTORS[name]
    try:
        net: nn.Module = made_by(num_classes, in_chans, **sized, **args)
    except TypeError as error:
        if (key := unexpected(error)) is not None:
            raise ValueError(refused_key(key, name, getattr(made_by, "func", made_by))) from error
        raise ValueError(f"{name} does not take these args ({error}): leave out what it does not know") from error
    return net
