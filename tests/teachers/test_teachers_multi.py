"""Several teachers and chains: what they are called, which runs train them, what a result says of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill import config
from distill.config.check import check
from distill.config.teacher_nodes import expand_teachers, label
from distill.data import load_data
from distill.engine.evaluate import best_bias, predict, scores, without_classes
from distill.models import build, load_weights
from distill.run import run
from distill.teachers.store import get_teachers
from tests.tiny import composed


def node(name: str) -> dict:
    return {"name": name, "model": f"cifar_{name}", "weights": "auto", "seed": 0}


def test_lists_become_single_teachers() -> None:
    own = {**node("resnet56"), "seed": 4, "models": None, "seeds": None, "chain": None}
    assert expand_teachers(own, node) == [{**node("resnet56"), "seed": 4}]
    two = expand_teachers({**own, "models": ["resnet8", "vgg8"]}, node)
    assert [(t["name"], t["seed"]) for t in two] == [("resnet8", 4), ("vgg8", 4)]
    seeds = expand_teachers({**own, "seeds": [0, 1, 2]}, node)
    assert [(t["name"], t["seed"]) for t in seeds] == [("resnet56", 0), ("resnet56", 1), ("resnet56", 2)]
    both = expand_teachers({**own, "models": ["resnet8", "vgg8"], "seeds": [3, 9]}, node)
    assert [(t["name"], t["seed"]) for t in both] == [("resnet8", 3), ("vgg8", 9)]
    (last,) = expand_teachers({**own, "chain": ["resnet110", "resnet20", "resnet8"]}, node)
    assert (last["name"], last["chain"], last["seed"]) == ("resnet8", ["resnet110", "resnet20"], 4)


def test_names_are_readable() -> None:
    own = {**node("resnet56"), "models": None}
    assert label(expand_teachers(own, node)) == "resnet56"
    assert label(expand_teachers({**own, "models": ["resnet56", "resnet110"]}, node)) == "resnet56+resnet110"
    assert label(expand_teachers({**own, "seeds": list(range(10))}, node)) == "10xresnet56"
    assert (
        label(expand_teachers({**own, "chain": ["resnet110", "resnet56", "resnet32"]}, node))
        == "resnet110-resnet56-resnet32"
    )


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=aekd"], "two or more"),
        (["method=two-teacher"], "2 teachers"),
        (["method=kd", "teacher.seeds=[0,1]"], "takes 1 teacher"),
        (["method=two-teacher", "teacher.seeds=[0,1,2]"], "takes 2 teachers"),
        (["method=aekd", "teacher.models=[resnet8,resnet5]"], "no teacher 'resnet5'"),
        (["method=aekd", "teacher.models=resnet8"], "must be a list"),
        (["method=aekd", "teacher.seeds=[0,-1]"], "must be a list"),
        (["method=aekd", "teacher.models=[resnet8,vgg8]", "teacher.seeds=[1]"], "as many of both"),
        (["method=aekd", "teacher.models=[resnet8,vgg8]", "teacher.weights=x.pth"], "one teacher's file"),
        (["method=takd", "teacher.chain=[resnet8,vgg8]", "teacher.seeds=[1]"], "ends in one teacher"),
        (["method=kd", "teacher.chain=[]"], "give a list"),
        (["method=takd", "teacher.chain=[resnet8,vgg8]", "teacher.weights=none"], "vgg8 has .*not taught by resnet8"),
        (["method=aekd", "teacher.models=[{model: resnet18, mean: [0.5]}, resnet8]"], "belong together"),
        (["method=aekd", "teacher.models=[{model: resnet18, seed: x}, resnet8]"], "teacher.models: seed=x"),
        (["method=aekd", "teacher.models=[{name: resnet8, seed: 5}, vgg8]", "teacher.seeds=[1,2]"], "give one of them"),
        (["method=kd", "dataset=folder", "teacher.dataset.pad=4"], "dataset.pad=4: images of a folder"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(overrides: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        check(composed(*overrides))
    assert "\n" not in str(refused.value)


def test_the_order_of_teachers_and_their_seeds_change_the_hash_and_a_list_of_one_does_not() -> None:
    def digest(*overrides: str) -> str:
        return config.identity(composed("method=avg-multi-teacher", *overrides))["hash"]

    several = [
        digest("teacher.seeds=[0,1]"),
        digest("teacher.seeds=[1,0]"),
        digest("teacher.models=[resnet56,resnet110]"),
    ]
    assert len(set(several)) == 3
    one = config.identity(composed("method=kd", "teacher=vgg8"))
    assert config.identity(composed("method=kd", "teacher.models=[vgg8]")) == one
    assert config.identity(composed("method=kd", "teacher.chain=[vgg8]")) == one


def test_folder_of_several() -> None:
    cfg = composed("method=aekd", "teacher.models=[resnet56,resnet110]", "output=/o")
    assert config.identity(cfg)["folder"].startswith("/o/digits/resnet56+resnet110-resnet20/aekd-")


def test_a_chain_is_the_runs_that_a_user_would_start() -> None:
    common = ["dataset=cifar100", "method=takd"]
    cfg = composed(*common, "teacher.chain=[resnet110,resnet20]", "student=resnet8", "seed=3")
    assert (cfg.method.kd, cfg.method.temperature) == (0.0015, 5.0)  # 0.15 of a mean over 100 classes, resnet20-resnet8
    assistant = config.teacher_config(cfg)
    by_hand = composed(*common, "teacher=resnet110", "student=resnet20", "seed=0")
    assert config.identity(assistant) == config.identity(by_hand)
    assert assistant.method.kd == 0.005  # of the pair resnet110-resnet20
    first = config.teacher_config(assistant)
    assert config.identity(first) == config.identity(
        composed("dataset=cifar100", "method=none", "student=resnet110", "seed=0")
    )


def test_assistants_of_another_method_are_distilled_with_takds_values() -> None:
    cfg = composed("dataset=cifar100", "method=crd", "teacher.chain=[resnet110,resnet20]")
    assistant = config.teacher_config(cfg)
    assert config.identity(assistant) == config.identity(
        composed("dataset=cifar100", "method=takd", "teacher=resnet110", "student=resnet20", "seed=0")
    )


def test_three_in_a_chain_are_taught_one_by_one() -> None:
    cfg = composed("method=takd", "teacher.chain=[resnet110,resnet56,resnet32]", "student=resnet8")
    names = []
    for _ in range(3):
        cfg = config.teacher_config(cfg)
        names.append((config.teacher_name(cfg), str(cfg.student.name)))
    assert names == [("resnet110-resnet56", "resnet32"), ("resnet110", "resnet56"), ("none", "resnet110")]


def test_teachers_see_what_the_transfer_set_leaves_out() -> None:
    cfg = composed(
        "method=kd", "dataset.omit=[3]", "dataset.fraction=0.5", "dataset.shots=4", "dataset.holdout=0.1"
    )
    taught = config.teacher_config(cfg).dataset
    assert (taught.omit, taught.fraction, taught.shots, taught.holdout) == ([], 1.0, None, 0.1)
    plain = composed("method=none", "student=resnet56", "seed=0", "dataset.holdout=0.1")
    assert config.identity(config.teacher_config(cfg)) == config.identity(plain)


def test_best_bias_against_trying_many() -> None:
    torch.manual_seed(0)
    for classes in ([3], [0, 2]):
        logits, labels = torch.randn(60, 5, dtype=torch.float64) * 2, torch.randint(5, (60,))
        logits[:, classes] -= 3

        def right(bias: float, logits=logits, labels=labels, classes=classes) -> int:
            moved = logits.clone()
            moved[:, classes] += bias
            return int((moved.argmax(1) == labels).sum())

        found = best_bias(logits, labels, classes)
        assert right(found) == max(right(step / 100) for step in range(-1500, 1500)) > right(0)
    assert best_bias(torch.eye(4, dtype=torch.float64), torch.arange(4), [1]) == 0.0  # nothing to gain: left alone


def test_only_runs_without_a_class_are_corrected() -> None:
    logits, labels = torch.tensor([[2.0, 0.0], [1.9, 1.0]]), torch.tensor([0, 1])
    assert without_classes(logits, labels, torch.tensor([0, 1])) == {}
    omitted = without_classes(logits, labels, torch.tensor([0, 0]))["omitted"]
    assert omitted["classes"] == [1] and 0.9 < omitted["bias"] < 2.0
    wrong, right = {"errors": 1, "errors_of_omitted": 1}, {"errors": 0, "errors_of_omitted": 0}
    assert omitted["as_trained"] == {"accuracy": 50.0, "of_omitted": 0.0, **wrong}
    assert omitted["corrected"] == {"accuracy": 100.0, "of_omitted": 100.0, **right}


SMALL = ["student=resnet8", "schedule.epochs=2", "schedule.milestones=[]", "schedule.batch_size=64", "device=cpu",
         "dataset.omit=[3]"]  # fmt: skip


def test_teachers_are_trained_once_and_shared(output: Path) -> None:
    cfg = composed(
        "method=avg-multi-teacher", "teacher=resnet8", "teacher.seeds=[0,1]", f"output={output}", *SMALL
    )
    result = run(cfg, config.identity(cfg)["folder"], table=False)
    assert result["teacher"] == "2xresnet8" and len(result["teachers"]) == 2
    assert result["omitted"]["classes"] == [3] and result["omitted"]["as_trained"]["of_omitted"] < 50
    folders = sorted(path.parent.name for path in output.glob("digits/none-resnet8/*/*/DONE"))
    assert folders == ["s0", "s1"]
    written = [path.stat().st_mtime_ns for path in sorted(output.glob("digits/none-resnet8/*/*/result.json"))]
    other = composed("method=kd", "teacher=resnet8", "teacher.seed=1", f"output={output}", *SMALL)
    alone = run(other, config.identity(other)["folder"], table=False)
    assert alone["teacher_accuracy"] == result["teachers"][1]["accuracy"]
    assert written == [
        path.stat().st_mtime_ns for path in sorted(output.glob("digits/none-resnet8/*/*/result.json"))
    ]


def test_an_assistant_is_distilled_and_then_teaches(output: Path) -> None:
    chain = composed("method=takd", "teacher.chain=[resnet8,resnet14]", f"output={output}", *SMALL)
    result = run(chain, config.identity(chain)["folder"], table=False)
    assert result["teacher"] == "resnet8-resnet14"
    (assistant,) = output.glob("digits/resnet8-resnet14/takd-*/s0/DONE")
    assert str(assistant.parent) in result["teacher_origin"]
    net = build("cifar_resnet14", 10, in_chans=1, size=8)
    load_weights(net, assistant.parent / "student.safetensors")
    images = torch.randn(4, 1, 8, 8)
    assert torch.isfinite(predict(net, [(images, torch.zeros(4))])[0]).all()


def test_what_was_measured_of_a_teacher_is_known_by_all_that_it_was_shown(tmp_path: Path) -> None:
    shots = ("dataset.shots=5", "teacher.weights=none")
    asked = [("teacher.weights=none", "dataset.flip=true"), ("teacher.weights=none",),
             ("teacher.weights=none", "dataset.std=[40]"), (*shots, "dataset.holdout=0.5"),
             (*shots, "dataset.holdout=0.1")]  # fmt: skip
    files = []
    for overrides in asked:
        spec = config.resolve(composed("method=kd", "teacher=resnet8", f"output={tmp_path}", *overrides))
        data = load_data(spec.dataset, torch.device("cpu"))
        (teacher,) = get_teachers(spec, data, torch.device("cpu"), train=lambda _: None)
        assert data.test is not None and teacher.seen == len(data.test)
        assert teacher.accuracy == scores(*predict(teacher.net, data.evaluation(256, "teacher")))["accuracy"]
        files.append(len(list(tmp_path.rglob("teachers/*.json"))))
    assert files == [1, 1, 2, 3, 4]
