"""FeatureNet: any classifier or backbone in timm's contract, with the maps that distillation reads."""

import copy
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.models.outputs import Outputs
from distill.models.reading import Reader, auxiliary_head, evaluating, wrong_size

_Shape = tuple[int, int, int]


class FeatureNet(nn.Module):
    """A net and what it shows: forward(images) -> Outputs, whose logits equal model(images).

    Of a backbone without a classifier (num_classes 0) the logits are None, and the embedding equals model(images).

    model: our CifarNet or a timm model; its state_dict() is what is exported. shapes: (C, H, W) a stage for images
    of `size`, none for nets without maps; stem_shape the same for the stem, or None. read_by: makes the
    reader, given an image. build, recipe: the function and its arguments for twin().
    Raises ValueError when the network cannot be read, or not at this image size.
    """

    def __init__(
        self,
        model: nn.Module,
        read_by: Callable[[Tensor], Reader],
        *,
        name: str,
        size: int = 32,
        in_chans: int = 3,
        recipe: dict[str, Any] | None = None,
        build: Callable[..., "FeatureNet"] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.name, self.size, self.in_chans = name, size, in_chans
        self.recipe, self._build = recipe, build
        self.begun = False  # whether its weights are given, and not drawn
        self.resizes = False  # whether images of another size are brought to its own
        self.quantized: dict[str, Any] = {}  # the options of models.quant.quantize, where it was
        self.num_classes: int = model.num_classes  # type: ignore[assignment]
        self._compiled: Callable[[Tensor], Outputs] | None = None
        self._compiled_fits: Callable[[Tensor], bool] = lambda inputs: False
        self.register_buffer("input_scale", None, persistent=False)
        self.register_buffer("input_shift", None, persistent=False)
        self.reader = read_by(self.probe())
        seen = self._dry_run()
        self.shapes: list[_Shape] = [_shape(feature) for feature in seen.features]
        self.channels = [shape[0] for shape in self.shapes]
        self.stem_shape = None if seen.stem is None else _shape(seen.stem)
        self.embedding_dim = seen.embedding.shape[1]
        self.has_preacts = seen.preacts is not None
        self.two_heads = seen.heads is not None

    def probe(self) -> Tensor:
        """A fixed image [1, C, H, W] on the model's device; the global random state is left alone."""
        image = torch.randn(
            1, self.in_chans, self.size, self.size, generator=torch.Generator().manual_seed(0)
        )
        return image.to(next(self.model.parameters()).device)

    def _dry_run(self) -> Outputs:
        with torch.no_grad(), evaluating(self.model):
            try:
                return self.reader.read(self.model, self.probe())
            except (RuntimeError, AssertionError, ValueError) as error:
                raise ValueError(wrong_size(self.name, self.size, self.in_chans, error)) from error

    @property
    def classifier(self) -> nn.Module:
        """The layer from the embedding to the logits (the class token's, where there are two)."""
        return self.reader.classifier(self.model)

    @property
    def classifiers(self) -> list[nn.Module]:
        """All layers that the logits come from: of a net with a distillation token its one as well, and of VOLO the
        one that reads patches.
        """
        heads = list(self.model.get_classifier()) if self.two_heads else [self.classifier]  # type: ignore[operator]
        beside = auxiliary_head(self.model)
        return heads if beside is None else [*heads, beside]

    def forward(self, inputs: Tensor) -> Outputs:
        """images [B, C, H, W], normalised for the data -> Outputs."""
        if self._compiled is not None and self._compiled_fits(inputs):
            return self._compiled(inputs)
        return self.read(inputs)

    def read(self, inputs: Tensor) -> Outputs:
        """What forward does, never compiled."""
        return self.reader.read(self.model, self.renormalised(inputs))

    def renormalised(self, inputs: Tensor) -> Tensor:
        """Images [B, C, H, W] that are normalised for the data, as the model itself sees them."""
        if self.resizes and inputs.shape[-1] != self.size:
            shape = (self.size, self.size)
            inputs = F.interpolate(inputs, shape, mode="bilinear", antialias=True, align_corners=False)
        return inputs if self.input_scale is None else inputs * self.input_scale + self.input_shift

    def use(self, compiled: Callable[[Tensor], Outputs], fits: Callable[[Tensor], bool]) -> None:
        """From now on `compiled` takes the place of `read` for images that fit; copies of the net do not inherit it."""
        self._compiled, self._compiled_fits = compiled, fits

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": None}

    def classify(self, last_feature: Tensor) -> Tensor:
        """[B, C, H, W] in place of the last stage's map -> logits [B, K], by all that follows that map.

        Raises ValueError for nets whose classifier does not read that map alone (a class token), or that have none.
        """
        if not self.num_classes:
            raise ValueError(f"{self.name} has no classifier, and its maps make no logits: give a net that has one")
        return self.reader.classify(self.model, last_feature).float()

    def head(self, final: Tensor) -> Tensor:
        """What Outputs.final shows, of any size [B, D, H, W], -> logits [B, K]: pooling and the classifier."""
        return self.reader.head(self.model, final).float()

    def stage(self, index: int, feature: Tensor) -> Tensor:
        """The map [B, C, H, W] of the stage before, or the stem's, -> that of stage `index` (0-based); of the last one
        what the head pools.

        Raises ValueError for nets whose stages cannot be run one by one.
        """
        return self.reader.stage(self.model, index, feature)

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The BatchNorm before each stage's last ReLU, shallow to deep; ValueError when the net has none."""
        try:
            return self.reader.bn_before_relu(self.model)
        except ValueError as error:
            raise ValueError(
                f"{self.name} has no BatchNorm before each stage's last ReLU: {error}"
            ) from error

    @property
    def inits(self) -> dict[str, str]:
        """The rules by which nets that are made beside it begin: schedule.inits."""
        return dict((self.recipe or {}).get("inits") or {})

    def twin(self, seed: int | None = None) -> "FeatureNet":
        """The same architecture with a fresh initialisation, on the same device."""
        if self.recipe is None or self._build is None:
            raise ValueError(f"{self.name} was not made by build(), so no twin of it can be made")
        twin = self._build(**copy.deepcopy(self.recipe), seed=seed)
        twin.resizes = self.resizes
        twin.input_scale, twin.input_shift = copy.deepcopy((self.input_scale, self.input_shift))
        return twin.to(next(self.parameters()).device)

    def renormalize(
        self,
        from_mean: Sequence[float],
        from_std: Sequence[float],
        to_mean: Sequence[float],
        to_std: Sequence[float],
    ) -> None:
        """From now on images arrive normalised by from_*, and the model sees them normalised by to_*."""
        statistics = [
            torch.tensor(list(s), dtype=torch.float64) for s in (from_mean, from_std, to_mean, to_std)
        ]
        if any(len(s) != self.in_chans for s in statistics):
            raise ValueError(
                f"{self.name} takes {self.in_chans} channels, so mean and std need {self.in_chans} values"
            )
        mean, std, new_mean, new_std = (s.view(1, -1, 1, 1) for s in statistics)
        device = next(self.parameters()).device
        self.input_scale = (std / new_std).float().to(device)
        self.input_shift = ((mean - new_mean) / new_std).float().to(device)

    def renormalize_as(self, other: "FeatureNet") -> None:
        """From now on images arrive as they do at another net, and the model sees them as that one's does."""
        self.input_scale, self.input_shift = other.input_scale, other.input_shift

    def constants(self, mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]]:
        """The mean and std by which the model itself sees images that arrive normalised by these."""
        if self.input_scale is None:
            return list(mean), list(std)
        scale, shift = (each.flatten().double().cpu() for each in (self.input_scale, self.input_shift))
        wide = torch.tensor(list(std), dtype=torch.float64) / scale
        return (torch.tensor(list(mean), dtype=torch.float64) - shift * wide).tolist(), wide.tolist()

    def fingerprint(self) -> str:
        """A hash of the weights, their names, the args and the input's renormalisation: nets that share it compute
        the same (global_pool=max has the weights of global_pool=avg).
        """
        digest = hashlib.sha256(self.name.encode())
        if args := (self.recipe or {}).get("args"):
            digest.update(repr(sorted(args.items())).encode())
        if self.resizes:
            digest.update(f"@{self.size}".encode())
        for name, tensor in (*self.model.state_dict().items(), *self.named_buffers()):
            digest.update(name.encode())
            digest.update(tensor.detach().double().cpu().numpy().tobytes())
        return digest.hexdigest()

    def params(self) -> int:
        """Number of parameters of the model."""
        return sum(p.numel() for p in self.model.parameters())

    def macs(self) -> int:
        """Multiply-accumulates of one image in convolutions and matrix products."""
        from distill.models.macs import MacCounter  # not needed to train

        with torch.no_grad(), evaluating(self.model), MacCounter() as counter:
            self.model(self.probe())
        return counter.macs


def _shape(feature: Tensor) -> _Shape:
    _, channels, height, width = feature.shape
    return channels, height, width
