"""What a student starts from: constants of its own, the weights of an earlier training, a classifier at zero."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distill.config import NetSpec, RunSpec, StudentSpec, thawed
from distill.content.state_file import State, read_state
from distill.data import DataInfo
from distill.models import FeatureNet
from distill.models.families import CONSTRUCTORS
from distill.models.reading import counts_batches, drops_patches, last_layers
from distill.models.weights import mismatch
from distill.run_folder import RunFolder

log = logging.getLogger(__name__)


def weights_of(student: StudentSpec, train: Callable[[RunSpec], None]) -> Path | None:
    """The file that the student's weights come from, or None; `train(spec)` is its earlier training, which is done
    once (student.upstream).
    """
    before = student.upstream
    if before is None:
        return student.weights
    folder = RunFolder(before.folder)
    if not folder.marked:
        log.info("the student's first training is not stored yet: it takes place in %s", folder)
    train(before)
    return folder.student


def student_arguments(spec: RunSpec) -> dict[str, Any]:
    """What a run's student is built with: its args, and schedule.drop_path. Raises ValueError for nets of ours."""
    args: dict[str, Any] = thawed(spec.student.args)
    if rate := spec.schedule.drop_path:
        if spec.student.model in CONSTRUCTORS:
            raise ValueError(_no_drop_path(spec.student.name, rate))
        args = {"drop_path_rate": rate, **args}
    return args


def student_inits(spec: RunSpec) -> Mapping[str, str]:
    """schedule.inits for a run's student and the nets beside it; none where the student begins from weights."""
    given = spec.student
    return {} if given.pretrained or given.weights or given.upstream else spec.schedule.inits


def check_recipe(student: FeatureNet, spec: RunSpec) -> None:
    """Raise ValueError where the student cannot do what the schedule asks of it, drop paths, layers with own rates, and
    for one that trains on some patches alone, which make no map, where the method reads maps.
    """
    if getattr(student.model, "patch_drop_rate", 0):  # Hiera's, which drops none where maps are asked for
        raise ValueError(f"student.args.patch_drop_rate: {student.name} is read with all its patches; leave it out")
    if drops_patches(student.model) and not spec.method.taps.isdisjoint(("features", "tokens")):
        why = f"{spec.method.name} reads its maps, to which all patches belong"
        raise ValueError(f"student.args.patch_drop_rate: {why}; leave it out, or take method=kd")
    rate, decay = spec.schedule.drop_path, spec.schedule.layer_decay
    if rate and not any(type(part).__name__ == "DropPath" for part in student.modules()):
        raise ValueError(_no_drop_path(student.name, rate))
    if decay and not hasattr(student.model, "group_matcher"):
        raise ValueError(layers_unknown(student.name, decay))


def _no_drop_path(name: str, rate: float) -> str:
    return f"schedule.drop_path={rate:g}: {name} has no paths that are dropped: take a ViT of timm, or leave it null"


def layers_unknown(name: str, decay: float) -> str:
    """Say that a net has no layers to tell apart."""
    return f"schedule.layer_decay={decay:g}: {name} does not tell its layers: take a net of timm, or leave it null"


def recompute(student: FeatureNet) -> None:
    """Let a net forget what its blocks computed and compute it again for the gradient: less memory, the same numbers.

    Raises ValueError for nets that cannot, and for those whose BatchNorms, or other norms that keep a mean or variance
    of batches (EvoNorm-B), would count each batch twice.
    """
    if name := next((type(part).__name__ for part in student.modules() if counts_batches(part)), None):
        why = f"its {'BatchNorms' if 'BatchNorm' in name else name} would count each batch twice"
        raise ValueError(f"grad_checkpointing=true: {student.name} is not computed twice, for {why}: leave it null")
    try:
        student.model.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError, NotImplementedError) as error:
        why = f"grad_checkpointing=true: {student.name} knows no such thing: take a ViT of timm, or leave it null"
        raise ValueError(why) from error


def log_start_file(net: FeatureNet, weights: Path) -> None:
    """Tell that a net starts from a file. Apart from `begin`, which is tried before anything is trained, too."""
    log.info("%s starts from %s, with a new classifier of %d classes", net.name, weights, net.num_classes)


def log_pretrained(net: FeatureNet) -> None:
    """Tell that a net starts from timm's weights, and whether its classifier is theirs."""
    published_classes = (getattr(net.model, "pretrained_cfg", None) or {}).get("num_classes")
    new = "" if published_classes == net.num_classes else f", with a new classifier of {net.num_classes} classes"
    log.info("%s starts from timm's weights%s", net.name, new)


def begin(net: FeatureNet, weights: Path | None, zero_head: bool) -> None:
    """Copy all weights but the classifier's from a file, and set the classifier to zero where that is asked for: of one
    of several layers the last, for the gradient of two that are zero is zero.

    Raises ValueError for a file that does not fit.
    """
    if weights is not None:
        net.model.load_state_dict({**net.model.state_dict(), **_trunk(net, weights)})
        net.begun = True
    if zero_head:
        for parameter in (parameter for layer in last_layers(net.model) for parameter in layer.parameters()):
            nn.init.zeros_(parameter)
        net.begun = True


def _trunk(net: FeatureNet, weights: Path) -> State:
    """All weights of a file but the classifier's, under the net's names. Raises ValueError where they do not fit."""
    state, ends = read_state(weights), head_names(net)
    own = _without(net.model.state_dict(), ends)
    trunk = _without(state, ends)
    if not (problem := mismatch(trunk, own)):
        return trunk
    if net.name not in CONSTRUCTORS:
        from distill.models.timm_factory import renamed  # imports timm, which takes seconds

        if not mismatch(known := _without(renamed(net.model, state), ends), own):
            return known
    raise ValueError(f"{weights} is no start for {net.name}: {problem}")


def _without(state: Mapping[str, torch.Tensor], ends: tuple[str, ...]) -> State:
    return {key: value for key, value in state.items() if not key.startswith(ends)}


def check_trunk(first: FeatureNet, net: FeatureNet) -> None:
    """Raise ValueError where a net could not start from `first`, the same net as its earlier training has it."""
    trunks = [_without(each.model.state_dict(), head_names(each)) for each in (first, net)]
    if problem := mismatch(*trunks):
        remedy = "give its dataset the size and the channels of the run's"
        raise ValueError(f"student.upstream is no start for {net.name}, which sees other images: {problem}; {remedy}")


def head_names(net: FeatureNet) -> tuple[str, ...]:
    """How the names of a classifier's weights begin, that of a net whose classifier was left away too."""
    heads = _heads(net)
    return tuple(f"{name}." for name, module in net.model.named_modules() if module in heads)


def _heads(net: FeatureNet) -> list[nn.Module]:
    found: Any = net.model.get_classifier()  # type: ignore[operator]
    return list(found) if isinstance(found, (tuple, list)) else [found]


def started_pretrained(spec: NetSpec) -> bool:
    """Whether a net has timm's weights, or is trained from them."""
    training = getattr(spec, "training", None)
    return spec.pretrained or (training is not None and training.student.pretrained)


def own_constants(net: FeatureNet, spec: NetSpec, info: DataInfo, *, published: bool = False) -> None:
    """Let a net see its images by the mean and std that it was trained with, where those are not the data's.

    spec: its own mean and std, else for pretrained weights of timm theirs (0.5 and 0.5 for BiT's, say). published:
    whether weights of a file are timm's as well.
    """
    given: Any = spec.mean, spec.std
    if None in given and (published or started_pretrained(spec)):
        from distill.models.timm_factory import pretrained_constants  # imports timm, which takes seconds

        given = pretrained_constants(net.model, spec.model, net.in_chans)
    mean, std = given
    if mean is None or std is None or _same((mean, std), (info.mean, info.std)):
        return
    log.info("%s sees images by its own mean %s and std %s", net.name, tuple(mean), tuple(std))
    net.renormalize(info.mean, info.std, tuple(mean), tuple(std))


def _same(first: Any, second: Any) -> bool:
    one, other = (torch.tensor(each, dtype=torch.float64) for each in (first, second))
    return torch.allclose(one, other, atol=1e-9)
