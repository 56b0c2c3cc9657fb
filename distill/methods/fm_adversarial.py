"""Feature-map-level online adversarial distillation (Chung, Park, Kim, Kwak, ICML 2020, arXiv:2002.01775)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from distill.batch import Batch
from distill.losses import full_precision, kl_div, pool_to
from distill.method import Losses, Method, Nets, Phase, Update
from distill.models import FeatureNet, Outputs
from distill.parts.discriminators import critic_of_maps, own_optimizer
from distill.parts.peers import make_peers, report_cohort


@full_precision
def least_squares(scores: Tensor, wanted: float) -> Tensor:
    """Mean of (D(x) - wanted)^2 over the batch: least-squares GAN, as the paper has it."""
    return (scores - wanted).square().mean()


class FMAdversarial(Method):
    """Peers learn each other's logits (CE + T^2 KL) and the distribution of each other's last maps.

    In a ring, discriminator k tells the map of peer k+1 (1) from that of peer k behind its transfer layer (0), and
    peer k with its transfer layer tries to pass: (D_k(T_k(f_k)) - 1)^2. A step is one forward and one update of all
    peers and their transfer layers, and then one of each discriminator, which has its own optimiser. The first
    peer is the student. No code by the authors is known: the weight and D's width and rate are ours.
    """

    def __init__(
        self, *nets: *Nets, weight: float, peers: int, models: Sequence[str], rates: Sequence[float] | None,
        hidden: int, discriminator_lr: float, **common: Any
    ) -> None:
        student, _, data = nets
        super().__init__(student, (), data, **common)
        self.weight, self.discriminator_lr = weight, discriminator_lr
        self.others = make_peers(student, peers, models, rates)
        widths = [net.channels[-1] for net in self.cohort]
        after = [*widths[1:], widths[0]]
        self.transfers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, other, 1, bias=False), nn.BatchNorm2d(other), nn.ReLU())
            for width, other in zip(widths, after, strict=True)
        )
        self.discriminators = nn.ModuleList(critic_of_maps(width, hidden) for width in after)
        self._seen: list[tuple[Tensor, Tensor]] = []

    @property
    def cohort(self) -> list[FeatureNet]:
        """All peers, the student first."""
        return [self.student, *self.others]  # type: ignore[list-item]

    def loss(self, batch: Batch) -> Losses:
        outputs = [net(batch.inputs) for net in self.cohort]
        self.count(outputs[0].logits, batch.labels)
        self._seen = []
        losses: Losses = {}
        for k in range(len(outputs)):
            losses |= self.peer_loss(k, outputs, batch)
        return losses

    def peer_loss(self, k: int, outputs: Sequence[Outputs], batch: Batch) -> Losses:
        """Cross-entropy, mimicry and adversarial loss of peer k, given what all peers say."""
        logits, square = outputs[k].logits, self.temperature**2
        others = [other.logits.detach() for j, other in enumerate(outputs) if j != k]
        mimicry = sum((kl_div(logits, other, self.temperature) for other in others), logits.new_zeros(()))
        fake, real = pool_to(
            self.transfers[k](outputs[k].features[-1]), outputs[(k + 1) % len(outputs)].features[-1]
        )
        self._seen.append((fake.detach(), real.detach()))
        adversarial = self.weight * least_squares(self.discriminators[k](fake), 1.0)
        name = "" if k == 0 else f"_{k}"
        return {
            f"ce{name}": self.ce * self.criterion(logits, batch),
            f"kd{name}": self.kd * square * mimicry / len(others),
            f"adversarial{name}": adversarial,
        }

    def critic_loss(self, k: int) -> Losses:
        """Discriminator k's turn, on the maps of the peers' turn."""
        fake, real = self._seen[k]
        critic = self.discriminators[k]
        return {f"discriminator_{k}": least_squares(critic(real), 1.0) + least_squares(critic(fake), 0.0)}

    def phases(self) -> list[Phase]:
        def turn(k: int) -> Update:
            rate = own_optimizer(self.discriminator_lr)
            return Update(f"discriminator_{k}", lambda batch: self.critic_loss(k), [self.discriminators[k]], rate)

        peers = Update("peers", self.loss, [self.student, self.others, self.transfers])
        return [Phase("adversarial", [peers, *(turn(k) for k in range(len(self.cohort)))])]

    def after_step(self) -> None:
        self._seen = []

    def reported(self) -> dict[str, nn.Module]:
        return report_cohort(self.cohort)
