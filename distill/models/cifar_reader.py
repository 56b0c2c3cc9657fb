"""The reader of our own nets."""

from torch import Tensor, nn

from distill.models.cifar_net import CifarNet
from distill.models.outputs import Outputs


class CifarReader:
    """Reads our own nets, which keep all their maps in one pass."""

    def read(self, model: nn.Module, inputs: Tensor) -> Outputs:
        assert isinstance(model, CifarNet)
        trace = model.trace(inputs)
        embedding = model.forward_head(model.final(trace), pre_logits=True)
        logits = model.get_classifier()(embedding)
        preacts = trace.preacts if model.has_preacts else None
        return Outputs(logits.float(), trace.features, embedding.float(), preacts, trace.stem)

    def classify(self, model: nn.Module, feature: Tensor) -> Tensor:
        assert isinstance(model, CifarNet)
        if not model.stage_names:
            raise ValueError(f"{type(model).__name__} has no maps, so its classifier reads none")
        return model.forward_head(model.tail(feature))

    def classifier(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, CifarNet)
        return model.get_classifier()

    def bn_before_relu(self, model: nn.Module) -> list[nn.BatchNorm2d]:
        assert isinstance(model, CifarNet)
        return model.bn_before_relu()
