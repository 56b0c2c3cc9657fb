"""The reader of our own nets."""

from typing import Any

from torch import Tensor, nn

from distill.models.cifar_net import CifarNet
from distill.models.outputs import Outputs


class CifarReader:
    """Reads our own nets, which keep all their maps in one pass."""

    def read(self, model: nn.Module, inputs: Tensor) -> Outputs:
        assert isinstance(model, CifarNet)
        trace = model.trace(inputs)
        final = model.final(trace)
        embedding = model.forward_head(final, pre_logits=True)
        logits: Any = model.get_classifier()(embedding).float() if model.num_classes else None
        preacts = trace.preacts if model.has_preacts else None
        shown = final if model.stage_names else None
        return Outputs(logits, trace.features, embedding.float(), preacts, trace.stem, final=shown)

    def classify(self, model: nn.Module, feature: Tensor) -> Tensor:
        assert isinstance(model, CifarNet)
        if not model.stage_names:
            raise ValueError(f"{type(model).__name__} has no maps, so its classifier reads none")
        return model.forward_head(model.tail(feature))

    def stage(self, model: nn.Module, index: int, feature: Tensor) -> Tensor:
        assert isinstance(model, CifarNet)
        shown, _ = model.stage(index, feature)
        return model.tail(shown) if index == len(model.stage_names) - 1 else shown

    def head(self, model: nn.Module, final: Tensor) -> Tensor:
        assert isinstance(model, CifarNet)
        return model.forward_head(final)

    def classifier(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, CifarNet)
        return model.get_classifier()

    def bn_before_relu(self, model: nn.Module) -> list[nn.BatchNorm2d]:
        assert isinstance(model, CifarNet)
        return model.bn_before_relu()
