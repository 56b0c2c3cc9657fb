"""Every experiment file composes; those of published tables stand for the tables' cells, each with its protocol."""

from __future__ import annotations

from functools import cache
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from distill import config, papers
from distill.cli.command import read_command
from distill.config.check import check
from distill.config.nulls import canonical
from distill.report.compare import model_name
from distill.sweep.compose import left_out
from tests import program
from tests.tiny import composed

REPO = Path(__file__).resolve().parents[2]
EXPERIMENTS = config.options("experiment")
TABLES = ["crd_table1", "crd_table2", "reviewkd", "dkd", "semckd", "sskd", "imagenet_resnet34_resnet18",
          "imagenet_resnet50_mobilenetv1", "linear_probe", "takd", "dml"]  # fmt: skip


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.register()
    monkeypatch.chdir(tmp_path)


def loaded(name: str) -> DictConfig:
    file = config.load_node("experiment", name)
    assert file is not None
    return file


def swept(name: str) -> dict[str, list[str]]:
    """The values of each key of an experiment's sweep."""
    found = {}
    for key, text in (OmegaConf.select(loaded(name), "hydra.sweeper.params") or {}).items():
        depth, values = 0, [""]
        for letter in str(text).replace(" ", ""):
            depth += {"[": 1, "]": -1}.get(letter, 0)
            if letter == "," and not depth:
                values.append("")
            else:
                values[-1] += letter
        found[str(key)] = values
    return found


def jobs(*words: str) -> list[DictConfig]:
    """The configurations that a command line stands for."""
    plan = read_command([*words, "--dry-run"]).jobs
    assert plan is not None
    return [make() for _, make in plan]


def folder(cfg: DictConfig) -> str:
    return config.identity(cfg)["folder"]


@cache
def compositions() -> dict[str, list[list[str]]]:
    """For each experiment the first value of each key, then those that no experiment before it has for its data set."""
    found: dict[str, list[list[str]]] = {}
    known: dict[str, set[str]] = {}
    for name in EXPERIMENTS:
        values = {key: [f"{key}={value}" for value in values] for key, values in swept(name).items()}
        first = {key: words[0] for key, words in values.items()}
        found[name] = [list(first.values())]
        dataset = str([item for item in loaded(name).get("defaults", []) if "dataset" in str(item)])
        before = known.setdefault(dataset, set())
        others = {key: words[1:] for key, words in values.items() if key != "seed"}
        new = {key: [word for word in words if word not in before] for key, words in others.items()}
        for row in zip_longest(*new.values()):
            chosen = {key: word for key, word in zip(new, row, strict=True) if word}
            found[name].append(list((first | chosen).values()))
        before.update(word for words in values.values() for word in words)
    return found


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes(name: str) -> None:
    assert not swept(name) or loaded(name).hydra.mode == "MULTIRUN"
    for words in compositions()[name]:
        if not left_out(loaded(name), words):
            cfg = composed(f"experiment={name}", *words)
            check(cfg)
            assert config.identity(cfg)["folder"].startswith("outputs/")


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_the_published_name_five_seeds_and_a_twin_for_the_cpu(name: str) -> None:
    assert papers.table_ids(name)
    runs = papers.table(name).runs or 5
    seeds = [str(seed + 1) for seed in range(3 if name.startswith("imagenet") else runs)]
    assert swept(name)["seed"] == seeds
    twin = swept(f"quick_{name}")
    assert len(list(product(*twin.values()))) <= 45
    assert "override /dataset: digits" in (config.conf_dir() / "experiment" / f"quick_{name}.yaml").read_text()


def cells(name: str) -> set[tuple[str, str, str]]:
    """(teacher, student, method) of an experiment with pairs and methods, spelled as the papers' tables are."""
    params = swept(name)
    words = {(f"pair={pair}", f"method={method}") for pair in params["pair"] for method in params["method"]}
    found = set()
    for pair, method in words:
        if not left_out(loaded(name), [pair, method]):
            node = OmegaConf.load(config.conf_dir() / "pair" / f"{pair[5:]}.yaml")
            teacher, student = (str(next(iter(one.values()))) for one in node.defaults)
            teacher = node.teacher.name if "teacher" in node else teacher
            student = node.student.name if "student" in node else student
            found.add((model_name(teacher), model_name(student), method[7:]))
    return found


def published(name: str) -> set[tuple[str, str, str]]:
    """The cells of the published tables of that name that have a value, on the experiment's data set."""
    found = set()
    for table in map(papers.table, papers.table_ids(name)):
        if (table.dataset == "imagenet") != name.startswith("imagenet"):
            continue
        for method, (k, pair) in product(table.methods, enumerate(table.pairs)):
            if table.value(method, k) is not None and pair.teacher:
                found.add((model_name(pair.teacher), model_name(pair.student), table.ours(method)))
    return found


@pytest.mark.parametrize("name", ["crd_table1", "crd_table2", "dkd", "sskd", "sdd"])
def test_tables_are_run_cell_by_cell(name: str) -> None:
    assert {cell for cell in cells(name) if cell[2] != "none"} == published(name)


def test_logit_standardisations_two_experiments_are_its_two_tables() -> None:
    both = cells("logit_standardization") | cells("logit_standardization_mlkd")
    assert both == published("logit_standardization")


def test_the_only_cells_left_out_are_those_that_cannot_be() -> None:
    missing = published("semckd") - cells("semckd")
    assert {cell for cell in missing if cell[2] in config.options("method")} == {
        ("resnet32x4", "vgg8", "at"),
        ("resnet32x4", "vgg8", "vid"),
    }
    assert {cell for cell in cells("reviewkd") if cell[2] == "reviewkd"} == {
        cell for cell in published("reviewkd") if cell[2] == "reviewkd"
    }
    for name, student in (("imagenet_resnet34_resnet18", "resnet18"), ("imagenet_resnet50_mobilenetv1", "mobilenetv1")):
        here = {cell for cell in published(name) if cell[1] == student and cell[2] in config.options("method")}
        assert {method for *_, method in here - cells(name)} <= {"one"}  # which takes no teacher


def test_semckds_convention_is_both_terms_with_weight_one() -> None:
    runs = {str(cfg.method.name): cfg for cfg in jobs("experiment=semckd", "pair=resnet32x4_ShuffleV2_1_5", "seed=1")}
    weights = {name: (cfg.method.get("ce"), cfg.method.get("kd")) for name, cfg in runs.items()}
    assert weights.pop("simkd") == (0, 0) and weights.pop("none") == (1, None)
    assert len(weights) == 8 and set(weights.values()) == {(1.0, 1.0)}
    (alone,) = jobs("dataset=cifar100", "student=ShuffleV2_1_5", "method=none")
    assert folder(runs["none"]) == folder(alone)  # kd: null is as good as no key


def test_sskds_convention_adds_kd_to_every_method() -> None:
    runs = {str(cfg.method.name): cfg for cfg in jobs("experiment=sskd", "pair=vgg13_vgg8", "seed=1")}
    assert {name: float(cfg.method.kd) for name, cfg in runs.items() if name in ("kd", "sskd", "crd", "at")} == {
        "kd": 0.9, "sskd": 0.9, "crd": 1.0, "at": 1.0,
    }  # fmt: skip
    assert (runs["sskd"].method.init_epochs, runs["ft"].method.init_epochs) == (60, 30)
    assert {cfg.schedule.name for cfg in runs.values()} == {"sskd"}


def test_protocols() -> None:
    review = jobs("experiment=reviewkd", "pair=vgg13_MobileNetV2", "method=reviewkd", "seed=1")[0]
    schedule = review.schedule
    assert (schedule.batch_size, schedule.lr, schedule.optimizer.nesterov) == (128, 0.1, True)
    assert review.dataset.mean[0] == pytest.approx(125.3 / 255, abs=1e-5)
    assert config.resolve(review).schedule.rate_of("cifar_MobileNetV2") == pytest.approx(0.02)
    large = jobs("experiment=imagenet_resnet50_mobilenetv1", "method=dkd", "seed=1")[0]
    assert (large.teacher.model, large.teacher.weights, large.method.beta) == ("resnet50.tv_in1k", "pretrained", 2.0)
    assert large.student.model == "mobilenetv1_relu" and large.schedule.epochs == 100


def test_maskedkds_experiment_is_its_authors_protocol() -> None:
    """DeiT's without erased rectangles and without an average of the weights (main.py of effl-lab/MaskedKD)."""
    for cfg in jobs("experiment=maskedkd"):
        assert (cfg.dataset.erasing, cfg.schedule.ema, cfg.schedule.epochs, cfg.method.ce) == (0, None, 300, 0.5)


def test_okddips_groups_are_of_four() -> None:
    """As by default in its train_DML.py, train_one.py and train_GL.py."""
    runs = {cfg.method.name: cfg.method for cfg in jobs("experiment=okddip", "student=resnet32", "seed=1")}
    assert {name: runs[name].temperature for name in ("dml", "one", "okddip")} == {"dml": 3, "one": 3, "okddip": 3}
    assert (runs["dml"].peers, runs["dml"].alternate, runs["one"].branches, runs["okddip"].branches) == (4, False, 4, 4)
    words = ["student=resnet32", "seed=1", "method=none"]
    assert folder(jobs("experiment=okddip", *words)[0]) == folder(jobs("dataset=cifar10", "schedule=okddip", *words)[0])


def test_polinos_soft_targets_are_its_own() -> None:
    runs = {cfg.method.name: cfg for cfg in jobs("experiment=polino", "student=wrn_biased_10_4", "seed=1")}
    method = runs["kd"].method
    assert (method.ce, method.kd * 100, method.temperature) == (0.3, pytest.approx(0.7), 2)
    words = ["dataset=cifar100", "schedule=polino", "teacher=wrn_biased_28_20", "student=wrn_biased_10_4", "seed=1"]
    for name in ("none", "quantized-distillation"):
        assert folder(runs[name]) == folder(jobs(*words, f"method={name}")[0])


def test_cohorts_of_dml_and_chains_of_takd() -> None:
    runs = jobs("experiment=dml", "seed=1")
    peers = {cfg.student.name + ":" + cfg.teacher.name: cfg.method.models for cfg in runs if cfg.method.name == "dml"}
    assert peers == {"resnet32:resnet32": [], "wrn_28_10:resnet32": ["cifar_resnet32"], "wrn_28_10:wrn_28_10": []}
    alone = [cfg for cfg in runs if cfg.method.name == "none"]
    assert len({folder(cfg) for cfg in alone}) == 2 and all(cfg.method.get("models") is None for cfg in alone)
    chains = {folder(cfg).split("/")[2]: cfg for cfg in jobs("experiment=takd", "seed=1")}
    assert sorted(chains) == ["none-resnet8", "resnet110-resnet20-resnet8", "resnet110-resnet8"]
    assert float(chains["resnet110-resnet20-resnet8"].method.kd) == 0.0015  # of the last step, from ResNet-20


def test_narrowed_down_it_is_the_run_of_the_plain_command() -> None:
    (narrow,) = jobs("experiment=crd_table1", "pair=resnet56_resnet20", "method=kd", "seed=3")
    (plain,) = jobs("dataset=cifar100", "teacher=resnet56", "student=resnet20", "method=kd", "seed=3")
    assert folder(narrow) == folder(plain)
    several = jobs("experiment=crd_table1", "pair=wrn_40_2_wrn_40_1", "method=kd,fsp", "seed=1,2")
    assert {cfg.method.name for cfg in several} == {"kd"} and len(several) == 2  # no -m; FSP does not fit


def test_what_is_done_is_skipped(tmp_path: Path) -> None:
    """Narrowed to one run, then to three: the first is not run again, FSP of a pair that does not fit is no failure."""
    tiny = ["teacher.weights=none", "dataset.fraction=0.1", "schedule.epochs=1", "device=cpu"]
    file = tmp_path / "extra" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    text = (config.conf_dir() / "experiment" / "quick_crd_table1.yaml").read_text()
    more = 'schedule:\n  init_epochs: 1\nleave_out: ["method=fsp seed=2"]\nhydra:\n'
    file.write_text(text.replace("hydra:\n", more, 1))
    one = ["experiment=mine", "pair=resnet14_resnet8", *tiny, "--config-dir", str(tmp_path / "extra")]

    def run(*words: str) -> Any:
        return program.run(*one, *words, cwd=tmp_path)

    first = run("method=kd", "seed=1")
    assert first.returncode == 0, first.stderr
    assert "1 run" in first.stdout
    more = run("method=kd,fsp", "seed=1,2", "hydra/launcher=packed")
    assert more.returncode == 0, more.stderr
    assert "3 runs: 1 done already, 2 to run" in more.stdout
    assert len(list((tmp_path / "outputs").rglob("DONE"))) == 3


def test_data_free_tables_run_by_the_settings_of_their_authors() -> None:
    first, second = jobs("experiment=cmi_cifar100", "pair=cifar_ResNet34_ResNet18", "method=dfq,cmi", "seed=1")
    assert first.method.optimizer == {"lr": 0.05} and not second.method.get("optimizer")
    assert second.method.features == "stages" and first.method.features is None
    assert [cfg.schedule.name for cfg in (first, second)] == ["cmi", "cmi"]
    (scratch,) = jobs("experiment=cmi_cifar10", "pair=wrn_40_2_wrn_16_1", "method=cmi", "seed=1")
    assert scratch.method.features == "batchnorm" and (scratch.method.pad, scratch.method.flip) == (4, True)
    (mnist,) = jobs("experiment=dafl_mnist", "method=dafl", "seed=1")
    assert (mnist.dataset.resize, mnist.schedule.epochs, mnist.method.batch_size) == (True, 200, 512)
    assert mnist.method.generator_optimizer.lr == 0.2 and not mnist.method.optimizer


@pytest.mark.parametrize("name", ["dafl", "dafl_mnist", "cmi_cifar10", "cmi_cifar100"])
def test_students_on_real_data_are_trained_as_the_teachers_of_data_free_tables(name: str) -> None:
    alone, data_free = jobs(f"experiment={name}", f"method=none,{'cmi' if 'cmi' in name else 'dafl'}", "seed=1")[:2]
    taught = config.teacher_config(data_free)
    assert taught.schedule.name == f"{name if name.startswith('dafl') else 'cmi'}_teacher"
    kept = [{**config.plain(cfg, "schedule"), "name": ""} for cfg in (alone, taught)]
    assert canonical(kept[0]) == canonical(kept[1]) != canonical({**config.plain(data_free, "schedule"), "name": ""})
