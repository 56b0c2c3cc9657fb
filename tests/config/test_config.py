"""Identity, precedence and building: all of it without torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file

from distill import config
from distill.cli.catalogue import in_readme, lines, methods
from distill.config.check import check, check_override
from tests.compositions import composed


def same(first: DictConfig, second: DictConfig) -> bool:
    return config.identity(first)["hash"] == config.identity(second)["hash"]


def test_neither_torch_nor_timm_nor_wandb_is_imported() -> None:
    code = (
        "import sys, distill.cli, distill.config, distill.config.net_names as n; n.timm_names();"
        "print([m for m in ('torch', 'timm', 'wandb', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.mark.parametrize(
    "override",
    [
        "seed=7",
        "device=cpu",
        "threads=3",
        "output=/elsewhere",
        "log_every=1",
        "save_minutes=1",
        "compile=false",
        "tracking=offline",
        "dataset.root=/data",
        "+dataset.workers=4",
    ],
)
def test_hash_ignores_what_does_not_change_the_result(override: str) -> None:
    assert same(composed(override), composed())


@pytest.mark.parametrize(
    "override",
    [
        "schedule.epochs=3",
        "method.temperature=2",
        "dataset.holdout=0.1",
        "precision=bf16",
        "student=resnet32",
        "teacher=resnet110",
        "teacher.seed=2",
        "teacher.weights=none",
        "schedule.optimizer.nesterov=true",
        "+student.args.x=1",
        "method=crd",
        "schedule.milestones=[1]",
        "sync_batchnorm=false",
    ],
)
def test_hash_follows_what_changes_the_result(override: str) -> None:
    assert not same(composed(override), composed())


def test_a_cache_of_half_floats_is_hashed_where_the_nets_compute_in_fp32() -> None:
    cached = "teacher.cache=embedding"
    assert not same(composed("precision=fp32", cached), composed("precision=fp32"))
    assert same(composed(cached), composed())


def test_hash_does_not_mind_how_a_number_is_spelt() -> None:
    assert same(composed("method=crd", "method.kd=1"), composed("method=crd", "method.kd=1.0"))
    assert same(composed("schedule.lr=1e-2"), composed("schedule.lr=0.01"))


def test_folder_names_the_run() -> None:
    cfg = composed("dataset=cifar100", "method=crd", "seed=3", "output=/o")
    who = config.identity(cfg)
    assert who["folder"] == f"/o/cifar100/resnet56-resnet20/crd-{who['hash']}/s3"
    assert len(who["hash"]) == 8 and int(who["hash"], 16) >= 0
    assert OmegaConf.create({**cfg, "here": "${run_folder:}"}).here == who["folder"]


@pytest.mark.parametrize("schedule", ["digits", "paper", "finetune"])
def test_a_first_phase_trains_no_other_teacher(schedule: str) -> None:
    words = ["method=fitnet", f"schedule={schedule}", "dataset=cifar100" if schedule == "paper" else "dataset=digits"]
    given, usual = (config.teacher_config(composed(*words, *more)) for more in (["schedule.init_epochs=7"], []))
    assert config.identity(given) == config.identity(usual)


@pytest.mark.parametrize("schedule", ["digits", "finetune"])
def test_a_first_phase_of_none_is_no_other_run(schedule: str) -> None:
    alone, two = ([config.identity(composed(f"method={name}", f"schedule={schedule}", f"schedule.init_epochs={epochs}"))
                   for epochs in (7, 8)] for name in ("none", "fitnet"))  # fmt: skip
    assert alone[0] == alone[1] and two[0] != two[1]


def test_without_a_teacher_the_teacher_does_not_matter() -> None:
    one = composed("method=none", "teacher=resnet56")
    other = composed("method=none", "teacher=vgg13")
    assert config.identity(one) == config.identity(other)
    assert "/none-resnet20/none-" in config.identity(one)["folder"]


def test_without_a_teacher_its_view_does_not_matter() -> None:
    seen, viewed = "dataset=cifar10", "dataset.views.teacher=L"
    assert same(composed("method=none", seen, viewed), composed("method=none", seen))
    assert not same(composed("method=kd", seen, viewed), composed("method=kd", seen))


@pytest.mark.parametrize(
    ("own", "words"),
    [("crd", []), ("cifar100", []), ("crd", ["schedule=paper"]), ("kdzoo", ["schedule=kdzoo"]),
     ("crd", ["teacher.dataset.flip=true"])],
)  # fmt: skip
def test_a_teachers_schedule_that_is_the_runs_own_is_no_other(own: str, words: list[str]) -> None:
    usual = composed("dataset=cifar100", "method=kd", *(word for word in words if word.startswith("schedule")))
    given = composed("dataset=cifar100", "method=kd", *words, f"teacher.schedule={own}")
    assert same(given, usual) and same(config.teacher_config(given), config.teacher_config(usual))
    for other in ("teacher.schedule=dml", "teacher.dataset.flip=false"):
        assert not same(composed("dataset=cifar100", "method=kd", *words, other), usual)
    for changed in ("schedule.epochs=3", "schedule.clip_grad=3"):
        assert not same(composed("dataset=cifar100", "method=kd", *words, f"teacher.schedule={own}", changed),
                        composed("dataset=cifar100", "method=kd", *words, changed))  # fmt: skip


@pytest.mark.parametrize("teacher", ["resnet56", "wrn_40_2", "MobileNetV2", "timm"])
def test_teachers_run_is_the_run_that_a_user_would_start(teacher: str) -> None:
    models = (
        ["teacher.model=resnet18", "student.model=resnet18"] if teacher == "timm" else ["seed=0", "seed=0"]
    )
    common = ["dataset=cifar100", "schedule.epochs=7", "dataset.holdout=0.1"]
    distilled = composed(*common, f"teacher={teacher}", models[0], "teacher.seed=5", "method=crd", "seed=2")
    by_hand = composed(*common, "method=none", f"student={teacher}", models[1], "seed=5")
    trained = config.teacher_config(distilled)
    assert config.identity(trained) == config.identity(by_hand)
    assert (
        config.plain(trained, "student") == config.plain(by_hand, "student")
        and trained.method == by_hand.method
    )
    assert distilled.method.name == "crd" and distilled.seed == 2  # the given configuration is left alone


def test_every_teacher_is_a_student_too() -> None:
    students = set(config.options("student"))
    for name in config.options("teacher"):
        teacher = config.load_node("teacher", name)
        if teacher.get("weights", "auto") == "auto" and teacher.get("mean") is None:
            assert name in students, (
                f"conf/teacher/{name}.yaml has no conf/student/{name}.yaml to train it with"
            )


def test_names_become_single_folders() -> None:
    assert config.slug("hf-hub:timm/vit_base.a1 in1k") == "hf-hub-timm-vit_base.a1-in1k"
    assert config.slug("../..") == "x"
    assert config.slug("crd+kd") == "crd+kd"


@pytest.mark.parametrize("pair", config.options("pair"))
def test_pairs_choose_teacher_and_student(pair: str) -> None:
    node = config.load_node("pair", pair)
    (teacher,), (student,) = (item.values() for item in node.defaults)
    assert teacher in config.options("teacher") and student in config.options("student")
    names = [node.get(key, {}).get("name", name) for key, name in (("teacher", teacher), ("student", student))]
    assert "_".join(names) == pair.removeprefix("cifar_")  # resnet34_resnet18 is ImageNet's


def test_command_line_outdoes_the_pair() -> None:
    cfg = composed("pair=wrn_40_2_wrn_16_2", "student=resnet8", "method=crd")
    assert (cfg.teacher.name, cfg.student.name, cfg.method.name) == ("wrn_40_2", "resnet8", "crd")


def test_tuned_values_lie_between_the_method_and_the_command_line(tmp_path: Path) -> None:
    path = config.conf_dir() / "tuned" / "cifar100-fitnet.yaml"
    tuned = yaml.safe_load(path.read_text())["method"]["weight"]
    untuned = composed("dataset=cifar10", "method=fitnet").method.weight
    assert composed("dataset=cifar100", "method=fitnet").method.weight == tuned != untuned
    assert composed("dataset=cifar100", "method=fitnet", "pair=vgg13_vgg8").method.weight == tuned
    assert composed("dataset=cifar100", "method=fitnet", "method.weight=5").method.weight == 5


def test_by_pair_picks_the_pair_or_the_default() -> None:
    cfg = composed("pair=wrn_40_2_wrn_16_2")
    text = "${by_pair:8.0,{resnet56-resnet20: 2.0, wrn_40_2-wrn_16_2: 3.5}}"
    assert OmegaConf.merge(cfg, {"method": {"kd": text}}).method.kd == 3.5
    assert OmegaConf.merge(composed(), {"method": {"kd": text}}).method.kd == 2.0
    assert OmegaConf.merge(composed("student=vgg8"), {"method": {"kd": text}}).method.kd == 8.0


def test_timms_mobilenet_takes_what_resnet50_to_mobilenetv1_takes() -> None:
    """Where a file has values of that pair: pair=resnet50_mobilenetv1_100 is the other name for it."""
    of_pair = r"resnet50-%s: ([\w.]+|\[[^\]]*\])"
    other = set()
    for path in sorted(config.conf_dir().rglob("*.yaml")):
        for key, values in re.findall(r"(\w+): (?:>-\s+|\")\$\{by_pair:(.*?)\}\}", path.read_text(), re.S):
            ours, timms = (re.findall(of_pair % name, values) for name in ("MobileNetV1", "mobilenetv1_100"))
            if ours != timms:
                other.add((path.stem, key))
    assert other == {("imagenet-reviewkd", "student_preact")}  # timm's net has no maps before its ReLU6


def test_missing_and_unresolvable_values_are_named() -> None:
    cfg = composed()
    cfg.student.model = "???"
    with pytest.raises(ValueError, match=r"student\.model has no value: give one, student\.model="):
        config.identity(cfg)
    cfg = composed("schedule.lr=${nowhere}")
    with pytest.raises(ValueError, match=r"schedule\.lr cannot be resolved: .*nowhere"):
        config.identity(cfg)


@pytest.mark.parametrize("name", config.options("method"))
def test_weights_of_methods_take_fractions(name: str) -> None:
    node = OmegaConf.to_container(config.load_node("method", name))
    for key in {"ce", "kd", "weight", "temperature", "tau", "momentum"} & set(node):
        value = node[key]
        assert isinstance(value, float) or str(value).startswith("${"), f"conf/method/{name}.yaml: write {key}: 1.0"


def test_the_page_of_methods_has_the_catalogue_of_now() -> None:
    text = (Path(__file__).resolve().parents[2] / "distill/docs/which_method.md").read_text(encoding="utf-8")
    assert in_readme(text) == text, "make readme"


def test_catalogue_lists_every_method_with_its_paper() -> None:
    entries = methods()
    assert {entry["name"] for entry in entries} == set(config.options("method"))
    for entry in entries:
        assert entry["kind"] and len(entry["paper"]) > 10, f"conf/method/{entry['name']}.yaml: fill in about"
    hintons = {entry["name"] for entry in methods(["hinton"])}
    assert "kd" in hintons and "crd" not in hintons
    assert [line for line in lines(methods(["hinton", "soft-target"])) if line.startswith("  kd")]


def test_other_names_of_methods_are_unique() -> None:
    names = config.options("method")
    aliases = [alias for entry in methods() for alias in entry["aliases"]]
    assert len(aliases) == len(set(aliases)) and not set(aliases) & set(names)


# --- build ---


class Base:
    def __init__(self, student: str, *, ce: float = 1.0, kd: float = 0.0) -> None:
        self.seen = {"student": student, "ce": ce, "kd": kd}


class Widget(Base):
    def __init__(self, student: str, *, width: int, layers: tuple[int, ...] = (), **base: float) -> None:
        super().__init__(student, **base)
        self.seen |= {"width": width, "layers": layers}


@pytest.fixture
def widget(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setitem(sys.modules, "distill.methods.widget", sys.modules[__name__])
    target = "distill.methods.widget.Widget"
    return {
        "_target_": target,
        "name": "widget",
        "about": {"teachers": 1},
        "width": 3,
        "layers": [1, 2],
        "kd": 1,
    }


def test_build_passes_plain_keywords(widget: dict[str, object]) -> None:
    cfg = OmegaConf.create({"method": widget, "w": 5})
    cfg.method.width = "${w}"
    built = config.instantiate(cfg.method, "s")
    assert built.seen == {"student": "s", "ce": 1.0, "kd": 1, "width": 5, "layers": [1, 2]}
    assert type(built.seen["layers"]) is list


def test_build_names_the_nearest_key(widget: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="widget does not take the key 'widht': did you mean width?"):
        config.instantiate({**widget, "widht": 1}, "s")
    with pytest.raises(ValueError, match="does not take the key 'student'"):
        config.instantiate({**widget, "student": 1}, "s")
    del widget["width"]
    with pytest.raises(ValueError, match="widget needs a value for width"):
        config.instantiate(widget, "s")


@pytest.mark.parametrize("target", ["os.system", "distillery.x.Y", "distill.methods.kd:os", "distill", ""])
def test_build_calls_nothing_outside_distill(target: str) -> None:
    with pytest.raises(ValueError, match="must name something below 'distill.'"):
        config.instantiate({"_target_": target, "name": "x"})


@pytest.mark.parametrize(
    "target", ["distill.methods.nowhere.X", "distill.config.Nothing", "distill.config.slug"]
)
def test_build_says_what_is_wrong_with_a_target(target: str) -> None:
    with pytest.raises(ValueError, match="check _target_ in its YAML"):
        config.instantiate({"_target_": target, "name": "x"})


# --- values ---


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schedule.lr", 1),
        ("schedule.lr", 0.1),
        ("threads", 4),
        ("threads", "x"),
        ("compile", True),
        ("device", 3),
        ("schedule.milestones", [1]),
        ("schedule.optimizer", {"name": "sgd"}),
        ("schedule.epochs", "${seed}"),
    ],
)
def test_values_of_the_right_kind_pass(key: str, value: object) -> None:
    check_override(composed(), key, value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("schedule.lr", "abc", "a number, not 'abc'"),
        ("schedule.lr", True, "a number, not true"),
        ("schedule.epochs", 1.5, "a whole number, not 1.5"),
        ("seed", None, "whole number, not null"),
        ("schedule.optimizer.nesterov", 1, "true or false, not 1"),
        ("schedule.milestones", 3, "a list"),
        ("student.args", 3, "a dictionary"),
        ("device", ["cpu"], "a single value"),
    ],
)
def test_values_of_another_kind_are_refused(key: str, value: object, words: str) -> None:
    with pytest.raises(ValueError, match=f"{key} must be .*{words}"):
        check_override(composed(), key, value)


@pytest.mark.parametrize(
    "override",
    [
        "schedule.batch_size=0",
        "schedule.epochs=0",
        "schedule.lr=0",
        "schedule.lr=-0.1",
        "schedule.lr=nan",
        "student.lr_scale=0",
        "method.ce=-1",
        "method.kd=-0.1",
        "method.temperature=0",
        "dataset.holdout=1.0",
        "dataset.holdout=-0.1",
        "device=gpu",
        "device=cuda:x",
        "precision=fp8",
        "compile=maybe",
        "threads=0",
        "seed=-1",
        "schedule.decay=poly",
        "schedule.max_norm=0",
        "dataset.pad_mode=mirror",
        "dataset.rotate=181",
        "schedule.optimizer.momentum=1.0",
        "schedule.optimizer.weight_decay=-1",
        "threads=many",
    ],
)
def test_values_out_of_range_are_refused(override: str) -> None:
    key, _, value = override.partition("=")
    with pytest.raises(ValueError, match=rf"^{key}={value}: {key} "):
        check(composed(override))


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["schedule.momentum_start=0.5"], "belong together"),
        (["schedule.momentum_start=0.5", "schedule.momentum_epochs=5", "schedule.optimizer.name=adam"], "is for SGD"),
        (["schedule.damped=true", "schedule.optimizer.nesterov=true"], "without Nesterov"),
        (["schedule.restart=true", "schedule.decay=cosine"], "there are none"),
        (["schedule.lr_min=0.001"], "decay=linear end"),
        (["+schedule.lr_scales.cifar_MobilNetV2=0.2"], "no such model: did you mean cifar_MobileNetV2"),
    ],
)
def test_keys_of_a_schedule_that_another_rules_out_are_refused(overrides: list[str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        check(composed(*overrides))


def test_models_are_known_without_torch() -> None:
    check(composed("student.model=resnet18.a1_in1k"))
    check(composed("method=none", "teacher.model=nonsense"))  # a teacher that is not loaded is not looked at
    with pytest.raises(ValueError, match="method=kd needs a teacher"):
        check(composed("teacher=none"))
    with pytest.raises(
        ValueError, match="there is no teacher model 'cifar_resnet65': did you mean .*cifar_resnet56"
    ):
        check(composed("teacher.model=cifar_resnet65"))


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"teacher\.weights=/no/such\.pth is no file"):
        check(composed("teacher.weights=/no/such.pth"))
    there = tmp_path / "t.safetensors"
    save_file({"weight": torch.zeros(1)}, there)
    check(composed("dataset=cifar10", "teacher=resnet56_a", f"teacher.weights={there}"))
    there.rename(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"is an exported net: .* local-dir:{tmp_path}, and weights=pretrained"):
        check(composed(f"teacher.weights={tmp_path}"))
    with pytest.raises(ValueError, match="resnet56_a brings the mean and std of a published checkpoint"):
        check(composed("dataset=cifar10", "teacher=resnet56_a"))


def test_an_optimiser_whose_steps_draw_is_refused_in_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    kron = "schedule.optimizer.name=kron"
    alone, seeded = composed(kron), composed(kron, "+schedule.optimizer.deterministic=true")
    check(alone)
    for key, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(key, value)
    check(seeded)
    with pytest.raises(ValueError, match="optimizer.name=kron draws numbers in its steps, in each process others"):
        check(alone)
