"""Runs from Python: `distill.run("method=kd student=resnet20", epochs=3)`, and finished ones opened again.

Both are what the command line does: the same checks, the same folders, the same results.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.content.memo import files_unchanged
from distill.result import Result
from distill.run_folder import RunFolder

if TYPE_CHECKING:
    from distill.config import RunSpec
    from distill.data import Data
    from distill.finished_run import FinishedRun
    from distill.models import FeatureNet

_TURNS = threading.RLock()  # a process has one of Hydra, of torch's generators and of the folder of own files
_SHORT = {  # keywords that are no keys of their own, and the keys that they stand for
    "epochs": "schedule.epochs",
    "batch_size": "schedule.batch_size",
    "lr": "schedule.lr",
    "root": "dataset.root",
}


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    folder: where its files are, an absolute path, for notebooks change their folder. result: what result.json holds,
    typed; `result.accuracy.last` is top-1 in percent.
    """

    folder: Path
    result: Result

    @property
    def accuracy(self) -> float | None:
        """Top-1 in percent after the last epoch; None where it was not measured."""
        return self.result.accuracy.last

    @property
    def knn(self) -> float | None:
        """That of features by nearest neighbours, after the last epoch; None where it was not measured."""
        return self.result.knn.last if self.result.knn else None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Every logged row, in order: {"kind": "step" or "epoch", "loss": ..., "test_accuracy": ..., ...}."""
        return RunFolder(self.folder).rows()

    @property
    def config(self) -> RunSpec:
        """What the run was told."""
        return self._opened.spec

    @cached_property
    def data(self) -> Data:
        """Its data set: `data.info` (classes, size, mean, std), `data.evaluation(512)` (batches with labels)."""
        import torch

        import distill.finished_run as finished_run

        return finished_run.get_data(self._opened, torch.device("cpu"))

    @cached_property
    def student(self) -> FeatureNet:
        """The trained net in eval mode on the CPU: images [B,C,H,W] as the data gives them -> Outputs, with `logits`
        [B,K], `embedding` [B,D] and `features`. `student.model` is the plain module.
        """
        import torch

        import distill.finished_run as finished_run

        return finished_run.student(self._opened, torch.device("cpu"))

    @cached_property
    def _opened(self) -> FinishedRun:
        import distill.finished_run as finished_run

        return finished_run.open_run(self.folder)


def run(
    overrides: str | Sequence[str] = (), *, config_dir: str | Path | None = None, table: bool = False, **keys: Any
) -> Outcome:
    """Run one experiment, or find it done already: what `python -m distill OVERRIDES` does, in this process.

    overrides: "method=kd student=resnet20", or a list of such words. keys: plain ones of conf/config.yaml (seed=2,
    device="cpu", method="kd"), epochs, batch_size, lr and root (of the schedule and the data set), and whole groups
    with their keys as dictionaries (schedule={"milestones": [2]}, student={"quantize": {"weights": 4}}). config_dir:
    YAML files of your own. table: whether to print the small table at the end. Calls of several threads take turns.

    Raises ValueError, in a sentence, for what the command line would refuse; NonFinite and Stopped of distill.errors.
    """
    words = shlex.split(overrides) if isinstance(overrides, str) else [str(word) for word in overrides]
    words += [text for key, value in keys.items() for text in _override(key, value)]
    with _TURNS, files_unchanged(fresh=True):
        cfg = composed(words, config_dir)
        from distill.config import resolve
        from distill.record.tracker import given_as
        from distill.run import run as run_one

        spec = resolve(cfg)
        with given_as([*_flags(config_dir), *words]):
            run_one(spec, table=table)
    return load(spec.folder)


def load(folder: str | Path) -> Outcome:
    """Open a finished run: outputs/<dataset>/<teacher>-<student>/<method>-<hash>/s<seed>.

    Raises ValueError for a folder that is no run's, or whose run is not finished.
    """
    place = RunFolder(Path(folder).absolute())
    return Outcome(place.path, place.finished_result())


def composed(words: Sequence[str], config_dir: str | Path | None = None) -> Any:
    """The checked configuration of one run. Raises ValueError for several runs, and as the command line does."""
    from hydra import compose, initialize_config_dir

    import distill.config as config
    from distill.cli.command import BASE, read_command, searched
    from distill.cli.sentences import format_error
    from distill.config.own_code import check_unchanged
    from distill.sweep import add_launchers

    check_unchanged()
    add_launchers()
    config.register()
    flags = _flags(config_dir)
    with _without_hydra():
        try:
            command = read_command([*flags, *words])
            if command.multirun:
                raise ValueError("these are several runs: call distill.run for each, or python -m distill -m")
            if flag := next((word for word in words if word.startswith("-")), None):
                raise ValueError(f"{flag} is a flag of the command line: leave it away, or call python -m distill")
            given = [word for word in command.argv if word not in flags]
            with initialize_config_dir(str(config.conf_dir()), job_name="distill", **BASE):
                return compose("config", [*given, *searched()], return_hydra_config=True)
        except ValueError:
            raise
        except Exception as error:  # Hydra's own
            raise ValueError(format_error(error)) from error


@contextmanager
def _without_hydra() -> Iterator[None]:
    """Leave a Hydra that the caller has initialised as it was."""
    from hydra.core.global_hydra import GlobalHydra

    kept = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = kept


def _flags(config_dir: str | Path | None) -> list[str]:
    return ["--config-dir", str(config_dir)] if config_dir is not None else []


def _override(key: str, value: Any) -> list[str]:
    """Keyword arguments as the command line has them: those of a group one by one, what they hold as it is."""
    if isinstance(value, dict):
        return [f"{key}.{name}={_spelled(each)}" for name, each in value.items()]
    return [f"{_SHORT.get(key, key)}={_spelled(value)}"]


def _spelled(value: Any) -> str:
    """A value in Hydra's words; NumPy's and torch's numbers and arrays as Python's."""
    if hasattr(value, "tolist"):
        value = value.tolist() if getattr(value, "ndim", 0) else value.item()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple, range)):
        return f"[{','.join(map(_spelled, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_spelled(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (int, float)):
        return repr(value)
    quoted = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return str(value) if _is_bare(str(value)) else f"'{quoted}'"


def _is_bare(text: str) -> bool:
    """Whether a text stays one without quotes: it has no marks of Hydra's, and is no number, truth value or null."""
    marks = text.replace("_", "").replace("-", "").replace("+", "").replace(".", "").replace("/", "")
    with suppress(ValueError):
        float(text)
        return False
    return marks.isalnum() and text.lower() not in ("null", "true", "false")
