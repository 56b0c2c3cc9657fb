"""A key that nothing reads beside the others is refused where somebody has given it, not where it is a default."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from distill import config
from distill.cli.command import BASE, Command, read_command
from distill.config.given import given_keys
from distill.config.idle import ALWAYS, HELD, READ_BY, check_idle, idle_keys
from distill.config.method_rules import method_rules
from distill.config.rules import RULES
from distill.sweep.lean import LeanLoader
from distill.teachers.cache import HOLDS
from tests import tiny

IDLE = {  # a command, and what is said of its last word
    "method=kd schedule.init_epochs=5": "method=kd has no first phase of so many epochs",
    "schedule.by_epoch=true": "schedule.decay=cosine and linear read it, not step",
    "method=fitnet method.hint_epochs=4 schedule.init_epochs=5": "method=fitnet has no first phase",
    "schedule.decay=cosine schedule.milestones=[5]": "schedule.decay=step reads it, not cosine",
    "schedule.decay=constant schedule.gamma=0.5": "schedule.decay=step and exponential read it, not constant",
    "schedule.milestones=[150,180]": "training ends after 20 epochs",
    "dataset.root=elsewhere": "the digits come with scikit-learn",
    "+dataset.exif=false": "it is for a data set of image files",
    "+dataset.content=abc": "it is worked out from the files",
    "teacher.weights=none teacher.lr_scale=0.5": "teacher.weights=none is not trained",
    "teacher.weights=pretrained teacher.schedule=crd": "teacher.weights=pretrained is not trained",
    "teacher.weights=none teacher.dataset.pad=2": "teacher.weights=none is not trained",
    "teacher.weights=none teacher.epoch=best": "teacher.weights=none is not trained",
    "method=none teacher.lr_scale=0.5": "method=none has no teacher",
    "teacher.models=[resnet14] teacher.lr_scale=0.5": "teacher.models names the nets",
    "teacher.models=[resnet14] teacher.weights=none teacher.size=16": "teacher.models names the nets",
    "method=aekd teacher.weights=pretrained teacher.seeds=[0,1]": "teacher.weights=pretrained draws nothing",
    "teacher.seeds=[3] teacher.seed=4": "teacher.seeds has one for each",
    "tracking.project=mine": "tracking=online or offline reads it, not off",
    "method=at teacher.cache=embedding": "reads its teacher's features, which such a cache does not hold",
    "method=kd schedule.mixup=0.2 teacher.cache=logits": "mixed images are never the same twice",
    "method=kd dataset.cutout=4 teacher.cache=logits": "dataset.cutout shows an image in views without number",
    "schedule.milestones=[] schedule.gamma=0.5": "the rate falls at schedule.milestones, and there are none",
    "method=crd method.temperature=8": "it counts where method.kd is set, and method.kd is 0.0",
    **{f"method={name} method.temperature=8": "it counts where method.kd is set, and method.kd is 0.0"
       for name in ("ttm", "wttm", "vitkd", "deit-hard", "deit-token")},
    "method=sdd method.base=nkd method.alpha=2": "method.base=kd or dkd reads it, and method.base is nkd",
    "method=sdd method.base=kd method.warmup_epochs=5": "method.base=dkd or nkd reads it, and method.base is kd",
    **{f"method={name} method.relation=weights method.samples=9": "method.relation=logits or features reads it"
       for name in ("wkd-l", "wkd-lf")},
    "method=cc method.gamma=1": "method.form=kernel reads it, and method.form is neighbours",
    "schedule=crd schedule.lr_scales.cifar_ShuffleV1=0.1": "no net of the run has a share there",
    **{f"method={name} teacher.weights=none dataset.{key}": f"method={name} sees no images of the data set"
       for name in ("dafl", "zskt") for key in ("fraction=0.5", "shots=5", "omit=[3]")},
    "device=cpu cuda_graphs=true": "they are a GPU's, and device=cpu",
}
OF_COMMANDS = {
    "method=kd schedule.init_epochs=5": "method=kd has no first phase of so many epochs",
    "-m method=kd,at teacher.seeds=[3] teacher.seed=4": "teacher.seeds has one for each",
    "experiment=mine": "schedule.decay=step reads it, not cosine",
    "schedule=mine": "schedule.decay=step reads it, not cosine",
}
READ = (
    "method=fitnet schedule.init_epochs=5 method.kd=1",
    "schedule.milestones=[5,30] schedule.decay=step", "-m method=none,kd teacher.lr_scale=0.5",
    "-m schedule.decay=step,cosine schedule.milestones=[5]", "method=kd schedule.init_epochs=5 hydra.mode=RUN",
    "schedule=crd student=ShuffleV1 schedule.lr_scales.cifar_ShuffleV1=0.1",
    "dataset=cifar100 schedule=mlkd teacher.weights=pretrained",
    "dataset=cifar100 method=mlkd schedule=paper teacher.weights=none",
    "method=dafl dataset.holdout=0.1", "method=dafl dataset.fraction=0.5 evaluate.knn=true",
    "-m method=kd,dafl dataset.fraction=0.5", "schedule.lr_min=null method=none teacher=resnet14",
    "experiment=mine schedule.decay=step",
)


@pytest.fixture(autouse=True)
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the user's own, whose schedules contradict themselves."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["distill"])
    monkeypatch.setattr("distill.config.groups._own", [])
    text = "decay: cosine\nmilestones: [5]\n"
    for group, words in (("experiment", "# @package _global_\nschedule: {decay: cosine, milestones: [5]}\n"),
                         ("schedule", f"defaults: [digits]\nname: mine\n{text}")):  # fmt: skip
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "mine.yaml").write_text(words)


def read(words: str) -> Command:
    config.register()
    own = ["--config-dir", "conf"] if "mine" in words.split("=") or "=mine " in words else []
    return read_command([*own, *_split(words), "--dry-run"])


def _split(words: str) -> list[str]:
    """At blanks, but for those within braces."""
    return words.replace(": ", ":\0").replace(" ", "\n").replace("\0", " ").split("\n")


def test_what_nothing_reads_is_refused_with_the_reason() -> None:
    config.register()
    with initialize_config_dir(str(config.conf_dir()), **BASE):
        lean = LeanLoader(GlobalHydra.instance().config_loader())
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        for words, why in IDLE.items():
            overrides = parser.parse_overrides(_split(words))
            cfg = lean.compose("config", _split(words))
            keys = given_keys(overrides, lambda item: item.key_or_group in ("method", "tracking"))
            with pytest.raises(ValueError, match=rf"does nothing here: .*{why}"):
                check_idle(idle_keys(cfg, keys))


@pytest.mark.parametrize("words", OF_COMMANDS)
def test_commands_and_own_files_that_say_what_nothing_reads_are_refused(words: str) -> None:
    with pytest.raises(ValueError, match=rf"does nothing here: .*{OF_COMMANDS[words]}"):
        read(words)


@pytest.mark.parametrize("words", READ)
def test_what_some_run_of_the_command_reads_is_not(words: str) -> None:
    assert read(words).jobs


def test_each_key_says_what_reads_it() -> None:
    assert {key for key in RULES if not key.startswith("teacher.dataset.")} - ALWAYS - set(READ_BY) == set()
    assert set().union(*HOLDS.values()) == HELD


def test_what_a_methods_keys_hang_on_are_keys_of_its_own() -> None:
    for name in config.options("method"):
        node = OmegaConf.to_container(config.load_node("method", name), resolve=False)
        for key, condition in (node["about"].get("only") or {}).items():
            assert {key, *(one.partition("=")[0].strip() for one in condition.split(","))} <= set(method_rules(name))


def test_no_default_is_refused() -> None:
    cfg = tiny.composed("method=kd")
    assert idle_keys(cfg, ["schedule.init_epochs"]) and not idle_keys(cfg, ["schedule.lr", "method.temperature"])
