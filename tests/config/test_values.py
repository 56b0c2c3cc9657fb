"""Every key has a kind and a range: what is wrong for it is refused, and so is a key that nothing reads."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from omegaconf import OmegaConf

from distill import config
from distill.config.check import check
from distill.config.method_rules import NOT_A_METHODS, method_rules
from distill.config.rules import BITS, FLAG, KINDS, RULES, RULES_OF_GROUPS, check_rule
from distill.config.values import check_data, check_values
from tests import tiny

NAN, INF = float("nan"), math.inf
NOT_NUMBERS = ("x", "", [], {}, [1, "x"], True, NAN, INF, -INF, 1e300, 10**400)
WRONG = {  # by the kind of the default: what no key with such a default can be
    bool: ("x", "", [], {}, 3, 0.5, NAN, None),
    int: (*NOT_NUMBERS, 0.5, -7.0, 8.0, None),
    float: (*NOT_NUMBERS, -0.5, None),
    str: ("", [], {}, NAN, -1, 0.5, True, None),
    list: ("x", 3, {}, None, [NAN], [{}], [INF]),
}
FINE = {  # what a key may be, though its default is of another kind
    *((f"schedule.{key}", "None") for key in (*OmegaConf.load(config.conf_dir() / "config.yaml").schedule, "rule",
                                              "zero_head")),  # null there for the schedules that do not name them
    *((key, "None") for key in ("dataset.num_classes", "dataset.kind", "dataset.resize", "student.model",
                                "teacher.model", "teacher.mean", "teacher.std", "threads")),
    *((f"schedule.{key}", text) for key in ("warmup_epochs", "momentum_epochs") for text in ("0.5", "8.0")),
    ("save_minutes", "0.5"), ("dataset.resize", "3"), ("method.activations", "None"), ("method.ends", "None"),
    *((key, "True") for key in ("compile", "cuda_graphs", "sync_batchnorm", "tracking.mode", "schedule.by_epoch",
                                "schedule.no_decay")),  # are flags too
}  # fmt: skip


def keys() -> Iterator[tuple[str, Any, Any]]:
    """Each key of each YAML with its default and its rule."""
    for name in config.options("method"):
        rules = method_rules(name)
        for key, default in OmegaConf.to_container(config.load_node("method", name), resolve=False).items():
            if key not in NOT_A_METHODS:
                yield f"method.{key}", default, rules[key]
    for group in RULES_OF_GROUPS:
        for name in config.options(group):
            node = config.load_node(group, name)
            for key, default in OmegaConf.to_container(node.get("schedule", node), resolve=False).items():
                if not isinstance(default, dict) and key != "defaults":
                    yield f"{group}.{key}", default, RULES[f"{group}.{key}"]
    top = OmegaConf.to_container(OmegaConf.load(config.conf_dir() / "config.yaml"), resolve=False)
    for key, default in top.items():
        if key not in (*RULES_OF_GROUPS, "hydra", "defaults"):
            yield key, default, RULES[key]


def refused(key: str, value: Any, rule: Any) -> bool:
    try:
        check_rule(key, value, rule)
    except ValueError as error:
        assert key in str(error) and len(str(error)) < 300
        return True
    return False


def test_values_of_another_kind_or_out_of_range_are_refused():
    passed, tried = [], 0
    for key, default, rule in keys():
        if default is None or isinstance(default, dict) or (isinstance(default, str) and "${" in default):
            continue
        for value in WRONG[type(default)]:
            tried += 1
            if not refused(key, value, rule) and (key, str(value)) not in FINE:
                passed.append((key, value, default))
    assert passed == [] and tried > 5000


def test_a_key_of_a_method_has_a_range_and_a_word_is_one_of_some():
    """A number that is too great by a slip of the keyboard, and a word that no method knows."""
    passed = []
    for key, default, rule in keys():
        if not key.startswith("method."):
            continue
        great = {int: 10**8, float: 1e7, str: "sideways", list: [1e7]}.get(type(default))
        if great is not None and "${" not in str(default) and not refused(key, great, rule):
            passed.append((key, default))
    assert passed == []


@pytest.mark.parametrize(("method", "values"), [
    ("crd", {"method.momentum": 1.5, "method.tau": 1.5, "method.bank": "abc", "method.kd": 1e9}),
    ("crd", {"method.momentum": 1000, "schedule.epochs": 10**7, "schedule.name": "../../x", "dataset.name": "=1+1"}),
    ("sskd", {"method.keep_similarity": 1000, "student.weights": 0, "student.name": "", "tracking.project": "../../x"}),
    ("qkd", {"method.activations": 0, "method.ends": 1000, "student.name": "a\u202eb"}),
    ("cmi", {"method.pool": 0, "method.features": "/dev/null", "tracking.project": "a:b"}),
])  # fmt: skip
def test_what_no_run_can_mean_is_refused_with_the_range(method, values):
    composed = tiny.composed(f"method={method}")
    for key, value in values.items():
        cfg = composed.copy()
        OmegaConf.update(cfg, key, value)
        with pytest.raises(ValueError, match=rf": {re.escape(key)} (must|is)"):
            check(cfg)


def test_a_null_default_takes_no_nonsense():
    passed = [(key, value) for key, default, rule in keys() if default is None
              for value in ("", {}, NAN, INF, -3, [NAN], 1e300) if not refused(key, value, rule)]  # fmt: skip
    allowed = [("student.upstream", {}), ("student.quantize", {}), ("teacher.dataset", {})]
    assert set(map(str, passed)) <= set(map(str, allowed))


def test_every_default_is_allowed():
    odd = [(key, default) for key, default, rule in keys()
           if not (isinstance(default, str) and ("${" in default or default == "???")) and refused(key, default, rule)]
    assert odd == []


@pytest.mark.parametrize("key", [
    "schedule.emma", "dataset.cutmix", "student.foo", "teacher.foo", "method.foo", "tracking.foo", "foo",
    "student.quantize.foo", "dataset.views.foo", "schedule.optimizer.foo",
])  # fmt: skip
def test_an_added_key_that_nothing_reads_is_refused(key):
    cfg = tiny.composed()
    OmegaConf.set_struct(cfg, False)
    OmegaConf.update(cfg, key, 0.5, force_add=True)
    with pytest.raises(ValueError, match="foo|emma|cutmix"):
        check(cfg)


@pytest.mark.parametrize(("changes", "words"), [
    ({"dataset.workers": 2}, "dataset.workers=2 is for a data set of image files"),
    ({"dataset.damaged": "skip"}, "dataset.damaged=skip is for a data set of image files"),
    ({"dataset.mean": [0.1, 0.2]}, "dataset.mean=.* needs 1 values"),
    ({"dataset.views": {"student": "colour"}}, "must be gray, L, ab"),
    ({"teacher.mean": [0.5]}, "teacher.mean and teacher.std belong together"),
    ({"dataset.shots": 8.0, "dataset.labels": True}, "dataset.shots=8.0: .*whole number"),
    ({"evaluate.neighbours": 5.0}, "evaluate.neighbours=5.0: .*whole number"),
    ({"dataset.mean": [125.3]}, r"dataset.mean=\[125.3\]: .* must be in \[0, 1\]"),
    ({"dataset.std": [63]}, r"dataset.std=\[63\]: .* at most 1"),
    ({"teacher.mean": [125.3], "teacher.std": [1.0]}, r"teacher.mean=\[125.3\]: .* must be in \[0, 1\]"),
    ({"student.quantize": {"weights": 1}}, "student.quantize.weights=1"),
    ({"schedule.loss": "BCE"}, "schedule.loss must be one of ce, bce"),  # what compares it knows small letters alone
    ({"student.quantize": {"weights": 4, "activations": "x"}}, "student.quantize.activations=x"),
])  # fmt: skip
def test_keys_beside_others(changes, words):
    cfg = tiny.composed()
    OmegaConf.set_struct(cfg, False)
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value, force_add=True)
    with pytest.raises(ValueError, match=words):
        check_values(cfg)


def test_images_of_a_folder_are_not_brought_to_size_when_loaded():
    photos = {"name": "photos", "kind": "folder", "size": 32, "mean": [0.5] * 3, "std": [1.0] * 3}
    check_data(photos | {"resize": 48})
    with pytest.raises(ValueError, match="dataset.resize=true is for data sets in memory"):
        check_data(photos | {"resize": True})


def test_an_optimisers_options_are_its_classes():
    from distill.config.optimizer_options import takes_option

    assert takes_option("lamb", "betas") and not takes_option("lamb", "nesterov") and not takes_option("lion", "foo")
    assert takes_option("lookahead_sgd", "nesterov") and not takes_option("lookahead_lamb", "nesterov")


@pytest.mark.parametrize(("optimizer", "words"), [
    ({"name": "adamw", "betas": [0.9, 0.99, 0.9]}, "schedule.optimizer.betas=.*: adamw has 2 betas"),
    ({"name": "adan", "betas": [0.9, 0.99]}, "schedule.optimizer.betas=.*: adan has 3 betas"),
    ({"name": "lamb", "trust_clip": 3}, "schedule.optimizer.trust_clip=3: .* must be true or false"),
    ({"name": "lamb", "max_grad_norm": "x"}, "schedule.optimizer.max_grad_norm=x: .* must be a number"),
    ({"name": "sgd", "amsgrad": True}, "the optimiser sgd has no option amsgrad"),
    ({"name": "adahessian"}, "adahessian asks for second derivatives"),
    ({"name": "fusedlamb"}, "fusedlamb wants the package apex"),
])  # fmt: skip
def test_an_optimiser_that_no_step_could_take_is_refused_before_the_teacher_is_trained(optimizer, words):
    cfg = tiny.composed("method=kd")
    OmegaConf.update(cfg, "schedule.optimizer", optimizer, force_add=True)
    with pytest.raises(ValueError, match=words):
        check(cfg)


def test_kinds_by_name_and_a_null():
    assert KINDS["bits"] is BITS and KINDS["flag or null"][0](None) and not FLAG[0](None)
