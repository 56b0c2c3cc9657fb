"""The forward of a run's teachers, faster than of the nets as they were loaded: folded, cast, compiled, cached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

import distill.runtime as runtime
from distill.batch import Batch
from distill.config import RunSpec
from distill.data import Data
from distill.engine.compiling import Compiling, fold_batchnorm, half_weights
from distill.method import TeacherForward, teacher_forward
from distill.models import FeatureNet, Outputs
from distill.teachers.cache import NotCached, TeacherCache, make_cache
from distill.teachers.store import Teacher, get_teachers


class Teachers:
    """A run's teachers, frozen: `teachers(net, batch)` are the outputs of one of their nets on its view of a batch.

    members: as they were loaded and measured; none for a method that has none. forward: how their nets
    are run. cache: where their outputs are kept, if they are; `forward` goes through it.
    """

    def __init__(
        self,
        members: Sequence[Teacher] = (),
        forward: TeacherForward = teacher_forward,
        cache: TeacherCache | None = None,
    ) -> None:
        self.members, self.forward, self.cache = list(members), forward, cache

    def __call__(self, teacher: FeatureNet, batch: Batch) -> Outputs:
        return self.forward(teacher, batch)

    def with_forward(self, forward: TeacherForward) -> Teachers:
        """The same teachers, run in another way."""
        return Teachers(self.members, forward, self.cache)

    @property
    def nets(self) -> list[FeatureNet]:
        """The members' nets, as methods see them."""
        return [member.net for member in self.members]


def prepare(
    spec: RunSpec,
    data: Data,
    device: torch.device,
    *,
    train: Callable[[RunSpec], None],
    precision: str,
    compiling: Compiling,
    mixed: bool = False,
    sharing: Sequence[RunSpec] = (),
) -> Teachers:
    """Load a run's teachers and make them ready: BatchNorms folded, weights cast, compiled, behind a cache.

    train: trains one that is missing. mixed: whether batches are mixed, which are never the same twice.
    sharing: the runs whose methods read their outputs; default: this one. Raises ValueError as `get_teachers`.
    """
    members = get_teachers(spec, data, device, train)
    frozen = FrozenTeachers([member.net for member in members], runtime.DTYPES[precision])
    compiling(frozen.copies.values())
    if not members:
        return Teachers()
    cache = make_cache(
        spec.cache,
        frozen,
        members,
        data,
        reads={each for run in sharing or (spec,) for each in run.method.reads},
        precision=precision,
        folder=spec.output / data.info.name / "teachers",
        compiled=compiling.asked and compiling.frozen,
        mixup=mixed,
    )
    return Teachers(members, cache or frozen, cache)


class FrozenTeachers:
    """Runs copies of the teachers whose BatchNorm is folded and, under bf16 or fp16, whose weights are cast once.

    The teachers themselves stay as they were, for methods that read their BatchNorms or send gradients through them,
    and are run where autocast is off, as in the preparation of a phase.
    """

    def __init__(self, teachers: list[FeatureNet], dtype: torch.dtype = torch.float32) -> None:
        self.copies = {id(net): fold_batchnorm(net) for net in teachers}
        self._originals = teachers  # keeps the ids from being given to others
        self.half = dtype is not torch.float32
        for copy in self.copies.values() if self.half else ():
            half_weights(copy, dtype)

    def __call__(self, teacher: FeatureNet, batch: Batch) -> Outputs:
        if self.half and not torch.is_autocast_enabled(batch.inputs.device.type):
            return teacher_forward(teacher, batch)
        return teacher_forward(self.copies.get(id(teacher), teacher), batch)


class ForwardMemo:
    """One forward for a batch that several runs share: its outputs are used until other inputs come, or either is
    written: what one method does to them in place is not what the teacher tells the next.

    own: runs a net on a batch where the runs do not share both, as `shares` tells; default: they share all. Methods may
    have a net of their own, which they train meanwhile, and batches of their own.
    """

    def __init__(
        self,
        teacher_forward: TeacherForward,
        own: TeacherForward | None = None,
        shares: Callable[[FeatureNet, Batch], bool] = lambda teacher, batch: True,
    ) -> None:
        self.teacher_forward, self.own, self.shares = teacher_forward, own or teacher_forward, shares
        self._outputs: dict[int, tuple[torch.Tensor, list[int], Outputs]] = {}

    def __call__(self, teacher: FeatureNet, batch: Batch) -> Outputs:
        if not self.shares(teacher, batch):
            return self.own(teacher, batch)
        inputs = batch.inputs
        known = self._outputs.get(id(teacher))
        if known is None or known[0] is not inputs or known[1] != _versions(inputs, known[2]):
            outputs = self.teacher_forward(teacher, batch)
            self._outputs[id(teacher)] = known = (inputs, _versions(inputs, outputs), outputs)
        lists: dict[str, Any] = {name: [*value] for name, value in vars(known[2]).items() if type(value) is list}
        return replace(known[2], **lists)


def _versions(inputs: torch.Tensor, outputs: Outputs) -> list[int]:
    """How often inputs, and each of the outputs, have been written."""
    held = (value for value in vars(outputs).values() if value is not None and not isinstance(value, NotCached))
    found = [each for value in held for each in ([value] if isinstance(value, torch.Tensor) else value)]
    return [each._version for each in (inputs, *found)]
