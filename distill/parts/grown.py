"""Students that are deployed with more than their own layers: their last map goes through further ones first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from distill.models import FeatureNet, Outputs
from distill.models.quant import refuse_quantized


class GrownModel(nn.Module, ABC):
    """A student's backbone and what makes logits of its last map. Raises ValueError for a quantised one.

    Its state_dict() leaves out the parameters in `unused`, of what the student has behind its last map and nothing
    here runs.
    """

    num_classes: int

    def __init__(self, student: FeatureNet, unused: set[str]) -> None:
        super().__init__()
        refuse_quantized(student, "what is exported holds more layers than the student's")
        self.backbone: Any = student.model
        self.unused = {f"backbone.{name}" for name in unused}

    def last_map(self, inputs: Tensor) -> Tensor:
        """inputs [B,C,H,W] -> the student's last map [B,C,H',W']."""
        return self.backbone.forward_intermediates(inputs, indices=1, intermediates_only=True)[-1]

    @abstractmethod
    def forward_features(self, inputs: Tensor) -> Tensor:
        """inputs [B,C,H,W] -> the map from which `finish` makes logits."""

    @abstractmethod
    def finish(self, feature: Tensor) -> Tensor:
        """What follows that map: -> logits [B,K]."""

    @abstractmethod
    def classifier(self) -> nn.Module:
        """The layer from the embedding to the logits."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self.finish(self.forward_features(inputs))

    def used(self) -> list[nn.Parameter]:
        """The parameters that the logits depend on."""
        return [p for name, p in self.named_parameters() if name not in self.unused]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        state = super().state_dict(*args, **kwargs)
        return {key: value for key, value in state.items() if key not in self.unused}


class GrownReader:
    """Reads a GrownModel: its only stage is the map that `finish` takes."""

    def read(self, model: nn.Module, inputs: Tensor) -> Outputs:
        assert isinstance(model, GrownModel)
        feature, seen = model.forward_features(inputs), []
        hook = model.classifier().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = model.finish(feature)
        finally:
            hook.remove()
        return Outputs(logits.float(), [feature], seen[0].flatten(1).float())

    def classify(self, model: nn.Module, feature: Tensor) -> Tensor:
        assert isinstance(model, GrownModel)
        return model.finish(feature)

    head = classify  # its map is what the head takes

    def stage(self, model: nn.Module, index: int, feature: Tensor) -> Tensor:
        raise ValueError("a grown student has one stage, which cannot be run alone")

    def classifier(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, GrownModel)
        return model.classifier()

    def bn_before_relu(self, model: nn.Module) -> list[nn.BatchNorm2d]:
        raise ValueError("the map of a grown student is no stage of its own")


class GrownNet(FeatureNet):
    """What is evaluated and exported; params() are those of all its parts together."""

    model: GrownModel

    def __init__(self, model: GrownModel, *, name: str, size: int, in_chans: int) -> None:
        super().__init__(model, lambda _: GrownReader(), name=name, size=size, in_chans=in_chans)

    def params(self) -> int:
        return sum(p.numel() for p in self.model.used())
