"""nas-kd: A supernet under soft targets; sandwich rule of Universally Slimmable Networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from distill import config
from distill.config import OptimizerSpec
from distill.engine.update import train_mode
from distill.losses import kd_loss
from distill.methods.nas_kd import NoStep
from distill.models import build
from distill.run import run
from tests import tiny

PAIR = ("cifar_resnet20", "cifar_resnet14")


def search(*overrides: str):
    data = tiny.tiny_data()
    return data, tiny.seeded_method("nas-kd", data, PAIR, "method.widths=[0.5,1.0]", *overrides)


def test_the_sandwich_and_its_loss() -> None:
    data, method = search("method.samples=2")
    batch = next(data.source(batch_size=8, seed=3).epoch(1))
    train_mode(method, method.phases()[0])
    losses = method.supernet_loss(batch)
    assert list(losses) == ["largest", "smallest", "drawn_0", "drawn_1"]
    method.eval()
    loss, logits = method.one(1, batch, method.teach(batch).logits)
    own = method.supernet.extract(1).eval()(batch.inputs).logits
    wanted = 0.1 * F.cross_entropy(own, batch.labels) + 0.9 * kd_loss(own, method.teach(batch).logits, 4.0)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4) and torch.allclose(logits, own, atol=1e-5)


def test_search_looks_and_picks_the_best_that_the_budget_allows() -> None:
    data, method = search("method.budget=0.6")
    _, phase, tune = method.phases()
    assert method.allowed == [True, True, True, False] and phase.epochs == 1 and not phase.evaluates
    assert method.deployed() is method.student and method.reported() == {}
    phase.begin()
    train_mode(method, phase)
    before = {key: value.clone() for key, value in method.student.state_dict().items()}
    stepper = NoStep(phase.updates[0].trains, OptimizerSpec(lr=1.0, optimizer={"name": "sgd"}))
    total = torch.zeros(4)
    for batch in data.source(batch_size=8, seed=3).epoch(1):
        stepper.step(phase.updates[0].loss(batch))
        teacher = method.teach(batch).logits
        with torch.no_grad():
            losses = [method.one(k, batch, teacher, keep=True)[0] for k in range(4)]
        total += torch.stack(losses) * len(batch.labels)
    assert all(torch.equal(value, before[key]) for key, value in method.student.state_dict().items())
    assert torch.allclose(method.scores, total, rtol=1e-4)
    method.scores.copy_(torch.tensor([3.0, 1.0, 2.0, 0.5]))
    method.after_epoch()
    assert method.choice == 1 and method.chosen == 1, "the best of all needs too much"
    tune.begin()
    assert method.deployed().macs() == method.supernet.macs[1] and method.deployed().name == "cifar_resnet14"
    with pytest.raises(ValueError, match="the smallest needs 0.1"):
        search("method.budget=0.01")


def test_a_score_is_the_mean_of_the_images_that_were_seen() -> None:
    data, method = search()
    method.phases()[1].begin()
    train_mode(method, method.phases()[1])
    seen = [batch for batch, _ in zip(data.source(batch_size=8, seed=3).epoch(1), range(2), strict=False)]
    losses = torch.stack([method.search_loss(batch)["mean"] for batch in seen])
    method.after_epoch()
    assert method.scores.mean().item() == pytest.approx(losses.mean().item(), rel=1e-4)
    assert method.reported()["chosen"].facts["score"] == method.scores[method.choice].item()


def test_a_run_deploys_an_ordinary_net_within_the_budget(output: Path) -> None:
    cfg = tiny.composed(
        "method=nas-kd", "teacher=resnet8", "student=resnet14", "method.widths=[0.5,1.0]",
        "method.budget=0.3",
        "dataset.fraction=0.15", "schedule.batch_size=32", "precision=fp32", f"output={output}",
    )  # fmt: skip
    folder = Path(config.identity(cfg)["folder"])
    result = run(cfg, folder, table=False)
    found = result["also"]["chosen"]
    full = build("cifar_resnet14", 10, in_chans=1, size=8)
    assert (
        result["macs"] == found["macs"] <= 0.3 * full.macs()
        and found["accuracy"] == result["accuracy"]["last"]
    )
    args = {"depth": int(found["depth"]), "widths": [round(found["width"] * c) for c in (16, 16, 32, 64)]}
    plain = build("cifar_resnet14", 10, in_chans=1, size=8, args=args)
    plain.model.load_state_dict(load_file(folder / "student.safetensors"))
    assert plain.params() == result["params"]
