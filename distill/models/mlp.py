"""Fully connected nets: those of Hinton, Vinyals & Dean, 2014, arXiv:1503.02531, section 3, on MNIST.

Their large net was regularised by dropout as in Hinton et al., 2012, arXiv:1207.0580: 20 % of the pixels, 50 % of
the hidden units, weights drawn from N(0, 0.01).
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.cifar_net import CifarNet, Trace


class MLP(CifarNet):
    """Pixels, hidden layers of `hidden` ReLU units, classifier.

    It has no maps and thus no stages: all it shows is the embedding [B, hidden[-1]], after dropout. size: height and
    width of the images. input_dropout, dropout: probabilities for pixels and for hidden units. init_std: of all
    weights, biases being zero; None keeps torch's initialisation.
    Raises ValueError for no hidden layer, a width below one, or a probability outside [0, 1).
    """

    stem_name = None
    stage_names = ()
    has_preacts = False

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 1,
        *,
        size: int = 28,
        hidden: Sequence[int] = (1200, 1200),
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        init_std: float | None = 0.01,
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden={list(hidden)} of an MLP must be widths of its hidden layers, such as 1200, 1200")
        if not (0 <= input_dropout < 1 and 0 <= dropout < 1):
            raise ValueError(f"input_dropout={input_dropout} and dropout={dropout} of an MLP must be in [0, 1)")
        self.in_chans, self.size, self.init_std = in_chans, size, init_std
        self.input_dropout, self.dropout = input_dropout, dropout
        widths = (in_chans * size * size, *hidden)
        self.layers = nn.ModuleList(
            self._initialised(nn.Linear(i, o)) for i, o in zip(widths, hidden, strict=False)
        )
        self.describe(num_classes, (), (), hidden[-1])

    def _initialised(self, layer: nn.Linear) -> nn.Linear:
        if self.init_std is not None:
            nn.init.normal_(layer.weight, 0, self.init_std)
            nn.init.zeros_(layer.bias)
        return layer

    def new_classifier(self) -> nn.Module:
        classifier = super().new_classifier()
        return self._initialised(classifier) if isinstance(classifier, nn.Linear) else classifier

    def trace(self, inputs: Tensor, stages: int | None = None) -> Trace:
        if inputs.shape[1:] != (self.in_chans, self.size, self.size):
            raise ValueError(f"its first layer takes {self.in_chans}x{self.size}x{self.size} images")
        x = F.dropout(inputs.flatten(1), self.input_dropout, self.training)
        for layer in self.layers:
            x = F.dropout(F.relu(layer(x)), self.dropout, self.training)
        return Trace(x)

    def pool(self, x: Tensor) -> Tensor:
        return x
