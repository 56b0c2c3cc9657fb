"""A small generator of digits taught by a large one: python scripts/gan_distill.py --epochs 40

Trains a digit classifier, a large GAN, a small GAN alone, and the same small generator under the large one
(Compressing GANs using Knowledge Distillation, Aguinaldo et al. 2019, arXiv:1902.00159), each once: the same
command goes on where it stopped. Generators are compared by the Fréchet distance of the classifier's embeddings to
those of the training digits; frechet.json and a table have the results. Two minutes on one core. With seed 1: large
9.7, small alone 13.2, small and taught 9.7 (test digits: 0.3); one seed, and alone it moves by 5 between epochs.

A generator is no classifier, so this is a script and no method=...: a run's student is a classifier that accuracy
is measured of. Loop, phases, updates, checkpoints and data are the library's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from distill import config
from distill.batch import Batch
from distill.data import Data, load_data
from distill.engine.checkpoint import Checkpoints
from distill.engine.fit import Fit, Options
from distill.files import write_json
from distill.losses import full_precision
from distill.method import Losses, Method, Phase, Update
from distill.models import FeatureNet, build, load_weights
from distill.models.generator import Generator
from distill.parts.discriminators import mlp, own_optimizer, real_or_fake
from distill.run import run
from distill.runtime import seed_everything
from distill.signals import StopSignals

LATENT, LARGE, SMALL = 32, 64, 6  # numbers of noise; widths of the two generators
PENALTY = 3.0  # gamma of R1
ADAM = own_optimizer(0.0005)


class GAN(Method):
    """Non-saturating GAN (Goodfellow et al. 2014, arXiv:1406.2661): generator and discriminator, an optimiser each.

    The discriminator's slope at real images is held down (R1, Mescheder et al. 2018, arXiv:1801.04406), without
    which the large generator collapses. With a teacher the generator also paints what that paints.
    """

    penalty = PENALTY

    def __init__(
        self, generator: Generator, data: Data, teacher: Generator | None = None, weight: float = 10.0
    ) -> None:
        nn.Module.__init__(self)
        self.student = generator  # type: ignore[assignment]
        self._teachers = () if teacher is None else (teacher,)  # type: ignore[assignment]
        self.weight, self.epoch, self.epochs = weight, 1, 1
        self.discriminator = nn.Sequential(nn.Flatten(), mlp(data.info.in_chans * data.info.size**2, 128, 1))
        self._fakes: Tensor | None = None

    def generate(self, batch: Batch) -> Losses:
        """Pass as real, and with a teacher paint what it paints of the same noise (mean squared difference)."""
        noise = torch.randn(len(batch.inputs), LATENT, device=batch.inputs.device)
        images = self.student(noise)
        self._fakes = images.detach()
        losses: Losses = {"generator": real_or_fake(self.discriminator(images), True)}
        if self._teachers:
            with torch.no_grad():
                wanted = self._teachers[0](noise)
            losses["mimic"] = self.weight * mimic_loss(images, wanted)  # type: ignore[arg-type]
        return losses

    def judge(self, batch: Batch) -> Losses:
        """Tell the batch from the generator's images."""
        images = batch.inputs.detach().requires_grad_(True)
        real, fake = self.discriminator(images), self.discriminator(self._fakes)
        (slope,) = torch.autograd.grad(real.sum(), images, create_graph=True)
        penalty = slope.square().flatten(1).sum(1).mean() / 2
        return {
            "discriminator": real_or_fake(real, True) + real_or_fake(fake, False),
            "slope": self.penalty * penalty,
        }

    def phases(self) -> list[Phase]:
        updates = [Update("generator", self.generate, [self.student], ADAM),
                   Update("discriminator", self.judge, [self.discriminator], ADAM)]  # fmt: skip
        return [Phase("gan", updates)]


@full_precision
def mimic_loss(images: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference of images [B,C,H,W] (arXiv:1902.00159, eq. 2)."""
    return (images - wanted).square().mean()


def frechet(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of Gaussians fitted to embeddings [M,D] and [N,D] (Heusel et al. 2017, arXiv:1706.08500).

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2), in float64.
    """
    a, b = a.double(), b.double()
    root = _root(a.T.cov())
    mixed = torch.linalg.eigvalsh(root @ b.T.cov() @ root).clamp_min(0).sqrt().sum()
    spread = a.T.cov().trace() + b.T.cov().trace() - 2 * mixed
    return float((a.mean(0) - b.mean(0)).square().sum() + spread)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


@torch.no_grad()
def painted(generator: nn.Module, count: int) -> Tensor:
    """`count` images of a generator in eval mode, always of the same noise."""
    noise = torch.randn(count, LATENT, generator=torch.Generator().manual_seed(0))
    modes = [(module, module.training) for module in generator.modules()]
    generator.eval()
    images: Tensor = generator(noise)
    for module, training in modes:
        module.training = training
    return images


@torch.no_grad()
def embedded(classifier: FeatureNet, images: Tensor) -> Tensor:
    return torch.cat([classifier(part).embedding for part in images.split(512)])


class Print:
    """Shows one line an epoch."""

    def __init__(self, name: str) -> None:
        self.name = name

    def begin_epoch(self, *_: Any) -> None: ...
    def step(self, row: dict[str, Any]) -> None: ...
    def best(self, net: nn.Module) -> None: ...
    def flush(self) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None:
        if "test_accuracy" in row:
            print(
                f"{self.name}: epoch {row['epoch']} of {row['epochs']}, Fréchet distance {-row['test_accuracy']:.2f}"
            )


def train(name: str, method: GAN, data: Data, args: argparse.Namespace, distance: Any) -> float:
    """Train a GAN to the end, from its last checkpoint if there is one, and return its distance."""
    schedule = config.ScheduleSpec.of(config.plain(configuration(args), "schedule") | {"epochs": args.epochs})
    options = Options(nullcontext, evaluate_every=max(args.epochs // 5, 1))
    source = data.source(batch_size=64, seed=args.seed)
    with StopSignals() as stop:
        fit = Fit(method, source, lambda net: -distance(net), schedule, options,
                  Checkpoints(args.output / name), Print(name), stop)  # fmt: skip
        fit.restore()
        for _ in fit.steps():
            pass
    return float(distance(method.student))


def configuration(args: argparse.Namespace) -> Any:
    """The run that trains the classifier, as the command line would compose it."""
    config.register()
    with initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
        return compose("config", ["dataset=digits", "dataset.pad=0", "method=none", "student=resnet8", "device=cpu",
                                  f"schedule.epochs={args.classifier_epochs}", f"output={args.output}"])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    cfg = configuration(args)
    folder = Path(config.identity(cfg)["folder"])
    run(cfg, folder, table=False)
    data = load_data(config.resolve(cfg).dataset)
    classifier = build("cifar_resnet8", 10, in_chans=1, size=8)
    load_weights(classifier, folder / "student.safetensors")
    classifier.requires_grad_(False).eval()
    results = compare(data, classifier, args)
    write_json(args.output / "frechet.json", results)
    for name, row in results.items():
        print(f"{name:24} {row['frechet']:8.2f}  {row['parameters']:8,} parameters")
    return 0


def compare(data: Data, classifier: FeatureNet, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Train the three generators; returns distance and parameters of each, and the distance of the test digits."""
    real = torch.cat([batch.inputs for batch in data.source(batch_size=512, seed=0).epoch(1)])
    test = torch.cat([images for images, _ in data.evaluation(512)])
    reference = embedded(classifier, real)
    distance = partial(_distance, classifier, reference)
    results = {"test digits": {"frechet": frechet(embedded(classifier, test), reference), "parameters": 0}}
    teacher: Generator | None = None
    for name, width in (("large", LARGE), ("small, alone", SMALL), ("small, distilled", SMALL)):
        seed_everything(args.seed)
        taught = name == "small, distilled"
        method = GAN(
            Generator(LATENT, data.info.in_chans, data.info.size, width),
            data,
            teacher if taught else None,
            args.weight,
        )
        value = train(name.replace(", ", "-"), method, data, args, distance)
        results[name] = {"frechet": value, "parameters": sum(p.numel() for p in method.student.parameters())}
        teacher = teacher or method.student.requires_grad_(False).eval()  # type: ignore[assignment]
    return results


def _distance(classifier: FeatureNet, reference: Tensor, generator: nn.Module) -> float:
    return frechet(embedded(classifier, painted(generator, 2000)), reference)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40, help="of each generator")
    parser.add_argument("--classifier-epochs", type=int, default=10)
    parser.add_argument(
        "--weight", type=float, default=10.0, help="of the difference to the large generator's images"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("outputs/gan"))
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
