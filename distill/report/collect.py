"""Finds result.json files and turns them into runs. A file that cannot be used is counted, never fatal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from distill.config.departs import departs_by_name
from distill.config.groups import conf_dir, load_node
from distill.report.given import given, settings_in
from distill.result import BadResult, Result
from distill.run_folder import RunFolder, find_runs
from distill.sweep.states import Status, statuses

REASONS = {
    "damaged": "damaged result.json",
    "foreign": "result.json of something else",
    "unfinished": "not finished",
    "unmeasured": "without an accuracy",
    "double": "second copy of a seed",
}


@dataclass(frozen=True)
class Run:
    """One finished run. Accuracies in percent; `agreement` is a fraction; `seconds` is the wall time; how fast
    packed runs were is None.
    """

    folder: Path
    dataset: str
    part: str  # of the data set that the accuracy was measured on: test, or a held-out part
    protocol: str
    ce: float | None
    kd: float | None
    weight: float | None
    teacher: str | None
    student: str
    method: str
    hash: str
    seed: str
    last: float
    best: float | None
    best_epoch: float | None
    epochs: float | None
    top5: float | None
    teacher_accuracy: float | None
    agreement: float | None
    params: float | None
    macs: float | None
    method_params: float | None
    images_per_second: float | None
    seconds: float | None
    by_hand: tuple[str, ...]  # settings of the schedule and the data set that the command changed
    settings: tuple[str, ...] = ()  # all that the command set, KEY=VALUE each; of a sweep this run's values
    command: str | None = None
    departs: str | None = None  # what the method does otherwise than its paper
    teacher_origin: str | None = None  # trained in <folder>, file <path>, ...
    version: str | None = None  # of this program, when it ran
    student_args: tuple[str, ...] = ()  # of the net, where they are others than its file's: depth=8
    teacher_args: tuple[str, ...] = ()

    @property
    def student_net(self) -> str:
        """`resnet20`, `resnet20 (depth=8)`: nets of one name with other arguments are other nets."""
        return _called(self.student, self.student_args)

    @property
    def teacher_net(self) -> str | None:
        return self.teacher and _called(self.teacher, self.teacher_args)

    @property
    def key(self) -> tuple[Any, ...]:
        """What must agree for two runs to be seeds of the same thing."""
        convention = (self.ce, self.kd, self.weight)
        return (
            self.dataset,
            self.part,
            self.protocol,
            convention,
            self.teacher,
            self.student,
            self.method,
            self.hash,
        )


@dataclass
class CollectedRuns:
    """The runs below some folders, and how many candidates were left out and why."""

    runs: list[Run] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    damaged: list[str] = field(default_factory=list)  # what is wrong with runs that said that they were done
    unfinished: list[Status] = field(default_factory=list)  # running, cut off or failed
    folders: list[Path] = field(default_factory=list)  # that were looked through

    def line(self) -> str:
        """One line: how many runs were read and what was skipped."""
        text = f"{len(self.runs)} run{'' if len(self.runs) == 1 else 's'} read"
        if self.skipped:
            parts = [f"{self.skipped[name]} {label}" for name, label in REASONS.items() if self.skipped[name]]
            text += f"; {sum(self.skipped.values())} skipped ({', '.join(parts)})"
        return " ".join([text + ".", *(f"Left out: {why}." for why in self.damaged)])


def collect(folders: Iterable[str | Path], unfinished: bool = False) -> CollectedRuns:
    """Read every run below `folders` (a folder, or a result.json itself); unfinished: the state of the others too.

    Raises:
        ValueError: a folder does not exist.
    """
    folders, found, seen = list(folders), CollectedRuns(), set()
    for folder in map(Path, folders):
        if not folder.exists():
            raise ValueError(
                f"There is no folder {folder}: give the output folder of some runs, such as outputs/digits."
            )
        for run in find_runs(folder):
            if run.is_run and run.path.resolve() not in seen:  # the same folder may be reached by two arguments
                seen.add(run.path.resolve())
                _add(found, run)
    kept = _without_copies(found)
    kept.folders = list(dict.fromkeys(map(Path, folders)))
    if unfinished:
        kept.unfinished = [one for top in kept.folders if top.is_dir() for one in statuses(top, done=False)]
    return kept


def _add(found: CollectedRuns, folder: RunFolder) -> None:
    """The run in a folder, or the reason why there is none."""
    if not folder.marked:
        found.skipped["unfinished"] += 1
        return
    try:
        run = _run(folder.path, folder.read_result())
    except BadResult as error:
        found.skipped["foreign" if error.foreign else "damaged"] += 1
        found.damaged.append(str(folder.damage))
        return
    if run is None:
        found.skipped["unmeasured"] += 1
    else:
        found.runs.append(run)


def _without_copies(found: CollectedRuns) -> CollectedRuns:
    """Keep one run of each (configuration, seed): a copied folder must not narrow the spread."""
    kept: dict[tuple[Any, ...], Run] = {}
    for run in found.runs:
        if kept.setdefault((run.key, run.seed), run) is not run:
            found.skipped["double"] += 1
    return CollectedRuns(list(kept.values()), found.skipped, found.damaged)


def _run(folder: Path, result: Result) -> Run | None:
    """What the tables show of a result, None where nothing was measured; features' neighbours count as another part."""
    score = result.score
    if score.last is None:
        return None
    by = ", by nearest neighbours" if score is result.knn else ""
    config = RunFolder(folder).config
    settings = given(result.command, config)
    speed: dict[str, Any] = {name: None if result.packed else getattr(result, name) for name in _OF_ITS_OWN_STEPS}
    return Run(
        folder=folder,
        dataset=result.dataset,
        part=f"{result.evaluated_on}{by}",
        protocol=result.protocol or "?",
        hash=result.hash or "?",
        seed=str(result.seed),
        last=score.last,
        best=score.best,
        best_epoch=score.best_epoch,
        by_hand=_by_hand(result, settings, config),
        settings=settings,
        departs=_departs(result),
        teacher_origin=result.document.get("teacher_origin"),
        version=(result.document.get("versions") or {}).get("distill"),
        student_args=_own_args("student", config),
        teacher_args=_own_args("teacher", config) if result.teacher else (),
        **{name: getattr(result, name) for name in _AS_THEY_ARE},
        **speed,
    )


_AS_THEY_ARE = (
    "ce", "kd", "weight", "teacher", "student", "method", "epochs", "top5", "teacher_accuracy", "agreement", "params",
    "macs", "method_params", "command",
)  # fmt: skip
_OF_ITS_OWN_STEPS = ("images_per_second", "seconds")  # of packed runs they hold the steps of others


def _by_hand(result: Result, settings: tuple[str, ...], config: dict[str, Any]) -> tuple[str, ...]:
    """Overrides such as schedule.batch_size=512: with them a protocol's name is no longer the whole truth.

    The result says of its own what its setting is: other views, fewer images, few bits. What an experiment file of the
    user's own sets counts as well, as the record in the run's folder has it.
    """
    kept = [word for word in settings if word.startswith(("schedule.", "dataset."))]
    kept += _of_own_experiment(settings_in(result.command), config)
    kept = [word for word in kept if not word.startswith(("dataset.root=", "dataset.workers=", "schedule.epochs="))]
    return tuple(sorted({*kept, *result.setting}))


def _of_own_experiment(command: tuple[str, ...], config: dict[str, Any]) -> list[str]:
    """What a record has otherwise than the files of its schedule and data set, where an experiment file of the user's
    own may have set it; ours are parts of the papers' protocols.
    """
    named = [word.partition("=")[2] for word in command if word.startswith("experiment=")]
    ours = conf_dir() / "experiment"
    if not named or all((ours / f"{name}.yaml").is_file() for name in named[-1].split(",")):
        return []
    schedule, data = (node if isinstance(node := config.get(group), dict) else {} for group in _GROUPS)
    file = _file("schedule", schedule.get("name"))
    usual = _file("dataset", data.get("name")) or _file("dataset", data.get("kind"))
    usual |= (file.get("dataset") or {}) if usual and "schedule" in file else {}
    found = _changed("schedule", schedule, file.get("schedule", file))
    return found + _changed("dataset", data, usual)


_GROUPS = ("schedule", "dataset")
_OF_PLACE = {"name", "kind", "content", "images", "num_classes"}  # of records: no settings


def _changed(group: str, node: dict[str, Any], usual: dict[str, Any]) -> list[str]:
    """The keys of a recorded node that have other values than its file, as overrides; none where there is no file."""
    given = ((key, value) for key, value in node.items() if value is not None and key not in _OF_PLACE)
    other = [(key, value) for key, value in given if value != usual.get(key) and not str(value).startswith("${")]
    return [f"{group}.{key}={value}" for key, value in other] if usual else []


def _file(group: str, name: Any) -> dict[str, Any]:
    """A file of conf, not resolved; empty for one that is not there."""
    node = load_node(group, str(name))
    found: Any = {} if node is None else OmegaConf.to_container(node, resolve=False)
    return found


def _own_args(group: str, config: dict[str, Any]) -> tuple[str, ...]:
    """The arguments of a recorded net that its file has not, or otherwise; of several teachers none."""
    node = config.get(group)
    if not isinstance(node, dict) or node.get("models") or not isinstance(args := node.get("args"), dict):
        return ()
    usual = _file(group, node.get("name")).get("args") or {}
    return tuple(f"{key}={value}" for key, value in sorted(args.items()) if value != usual.get(key))


def _called(net: str, args: tuple[str, ...]) -> str:
    return f"{net} ({', '.join(args)})" if args else net


def _departs(result: Result) -> str | None:
    """As the result says; results from before it did are marked by what the method's YAML says now."""
    if "departs" in result.document:
        return str(result.document["departs"]) if result.document["departs"] else None
    return departs_by_name(result.method)
