"""Mutual contrastive learning, MCL (Yang, An, Cai, Xu, AAAI 2022, arXiv:2104.12565)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch, Source
from distill.losses import full_precision, kd_loss
from distill.method import Losses, Method, Nets, Phase, Update
from distill.parts.branches import Branch, BranchedOutput
from distill.parts.peers import feature_nets, make_peers, report_cohort


def _projection(inputs: int, outputs: int) -> nn.Sequential:
    """Return the head that maps an embedding to the contrastive space."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, outputs))


@full_precision
def peer_similarities(embeddings: Sequence[Tensor], tau: float) -> list[list[Tensor]]:
    """Return s[a][b] = v_a v_b' / tau [M,M] for every two nets, of their embeddings [M,D], normalised."""
    units = [F.normalize(each, dim=1) for each in embeddings]
    return [[a @ b.T / tau for b in units] for a in units]


@full_precision
def contrast(similarity: Tensor, labels: Tensor) -> Tensor:
    """-log of the share of an image's positives among all others, of similarities [M,M] (VCL and ICL).

    Positives are the other images of the class, the mean of whose logarithms is taken; the image itself is
    left out on both sides. Every label must occur twice.
    """
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive = (labels[:, None] == labels) & others
    log_all = similarity.masked_fill(~others, float("-inf")).logsumexp(1, keepdim=True)
    return -(((similarity - log_all) * positive).sum(1) / positive.sum(1)).mean()


def class_batches(source: Any, classes: int, least: int) -> Source:
    """The source with `least` images of each class in a batch, or as many more as its number of classes asks for."""
    size = source.batch_size
    fits = (m for m in range(least, size + 1) if size % m == 0 and size // m <= classes)
    changed: Source = source.replace(per_class=next(fits, least))
    return changed


class MCL(Method):
    """CE + weight_vcl VCL + weight_svcl soft VCL + weight_icl ICL + weight_sicl soft ICL, over a cohort.

    VCL contrasts embeddings within a net, ICL those of one net with those of another, in both directions; the
    soft terms let each net mimic the others' similarity distributions by T^2 KL. Terms are summed over nets
    and ordered pairs of nets. kd adds the authors' logit distillation from the mean of all logits: to both of
    two nets, of more to the deployed one alone. form="branches", the authors' for more than two nets, has the peers
    share the student's first stage (ResNet_b of their models/resnet.py). A batch has `per_class` images of each of
    its classes, so that at 2, the authors', an anchor has one positive; where the data has too few classes, the least
    number above that divides the batch among them.
    """

    refuses = {
        "mixup": "it contrasts images of one class with those of others, and a mixed image has two",
        "last_batch": "in which each class has its images",
    }

    def __init__(
        self, *nets: *Nets, weight_vcl: float, weight_svcl: float, weight_icl: float, weight_sicl: float, form: str,
        peers: int, models: Sequence[str], rates: Sequence[float] | None, tau: float, dim: int, per_class: int,
        **common: Any
    ) -> None:
        student, _, data = nets
        super().__init__(student, (), data, **common)
        if tau <= 0:
            raise ValueError(f"method.tau is {tau}: it is a temperature above 0; the usual value is 0.1.")
        if per_class < 2:
            raise ValueError(f"method.per_class is {per_class}: an image needs another of its class, so 2 or more.")
        self.weights = {"vcl": weight_vcl, "svcl": weight_svcl, "icl": weight_icl, "sicl": weight_sicl}
        self.others = self._peers(form, peers, models, rates)
        self.tau, self.per_class = tau, per_class
        peer_nets = [each.net if isinstance(each, Branch) else each for each in self.others]
        self.heads = nn.ModuleList(_projection(net.embedding_dim, dim) for net in feature_nets([student, *peer_nets]))

    def _peers(self, form: str, peers: int, models: Sequence[str], rates: Sequence[float] | None) -> nn.ModuleList:
        if form == "networks":
            return make_peers(self.student, peers, models, rates)
        if form != "branches" or models or peers < 2:
            raise ValueError(
                f"method.form is {form!r} with {peers} peers and method.models={list(models)}: give networks, or "
                "branches of the student, 2 or more."
            )
        return nn.ModuleList(Branch(self.student, len(self.student.shapes) - 1) for _ in range(peers - 1))

    @property
    def cohort(self) -> list[nn.Module]:
        """All peers as they are evaluated, the student first."""
        others = [BranchedOutput(self.student, each) if isinstance(each, Branch) else each for each in self.others]
        return [self.student, *others]

    def answers(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """Logits [M,K] and embedding [M,D] of all peers."""
        first = self.student(batch.inputs)
        found = [(first.logits, first.embedding)]
        for each in self.others:
            if isinstance(each, Branch):
                found.append(each.finish(first.features[0]))
            else:
                out = each(batch.inputs)
                found.append((out.logits, out.embedding))
        return found

    def loss(self, batch: Batch) -> Losses:
        logits, embeddings = zip(*self.answers(batch), strict=True)
        self.count(logits[0], batch.labels)
        losses = {"ce": self.ce * torch.stack([self.criterion(each, batch) for each in logits]).sum()}
        if self.kd:
            mean = torch.stack([each.detach() for each in logits]).mean(0)
            followers = logits if len(logits) == 2 else logits[:1]
            losses["kd"] = self.kd * torch.stack([self.soft_targets(each, mean) for each in followers]).sum()
        heads = [head(each) for head, each in zip(self.heads, embeddings, strict=True)]
        return losses | self.contrastive(peer_similarities(heads, self.tau), batch.classes)

    def contrastive(self, s: list[list[Tensor]], labels: Tensor) -> Losses:
        """Return the four weighted terms, of the similarities [M,M] between nets."""
        pairs = list(permutations(range(len(s)), 2))
        terms = {
            "vcl": lambda: [contrast(s[a][a], labels) for a in range(len(s))],
            "svcl": lambda: [kd_loss(s[a][a], s[b][b].detach(), self.temperature) for a, b in pairs],
            "icl": lambda: [contrast(s[a][b], labels) for a, b in pairs],
            "sicl": lambda: [kd_loss(s[a][b], s[b][a].detach(), self.temperature) for a, b in pairs],
        }
        used = {name: weight for name, weight in self.weights.items() if weight}
        return {name: weight * torch.stack(terms[name]()).sum() for name, weight in used.items()}

    def phases(self) -> list[Phase]:
        source = partial(class_batches, classes=len(self.data.classes.unique()), least=self.per_class)
        return [Phase("distill", [Update("cohort", self.loss, [self])], source=source)]

    def candidate_nets(self) -> list[nn.Module]:
        """The other peers: the authors print the best net of the best epoch (main_cifar.py, max(acc1[:-1]))."""
        return self.cohort[1:]

    def reported(self) -> dict[str, nn.Module]:
        return report_cohort(self.cohort)
