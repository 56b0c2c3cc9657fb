"""The study: Optuna's record of all trials, in a file that survives a kill and that several workers share."""

from __future__ import annotations

import hashlib
import os
import random
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from distill.file_lock import file_lock
from distill.files import first_line
from distill.run_folder import is_locked
from distill.search.space import Space

START = timedelta(seconds=60)  # a trial that has no worker for longer than this was left by one that was killed
DRAWS = 50  # in search of values that no other worker has


def name_of(fixed: Sequence[str], space: Space) -> str:
    """A name that the same search has again, in whatever order its words are."""
    text = "\n".join(sorted([*fixed, *(f"{key}~{space[key]!r}" for key in space)]))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def storage(where: str) -> BaseStorage:
    """Optuna's storage for a file (a journal), or for a database's URL such as sqlite:///search.db.

    Raises ValueError when it cannot be opened.
    """
    try:
        if "://" in where:
            return _database(where)
        Path(where).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(where))
    except Exception as error:  # Optuna's, SQLAlchemy's and the system's
        reason = first_line(error)
        why = f"--storage {without_password(where)} cannot be opened ({reason}): give a file, or sqlite:///FILE"
        raise ValueError(why) from error


def without_password(where: str) -> str:
    """A file, or a database's URL without its password, which logs are not to hold."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", where)


def _database(where: str, tries: int = 5) -> RDBStorage:
    """Open a database; of workers that make its tables at the same moment all but one fail, and try again."""
    while True:
        tries -= 1
        try:
            return RDBStorage(where)
        except Exception:  # SQLAlchemy's
            if not tries:
                raise
            time.sleep(random.uniform(0.05, 0.4))


class Search:
    """A study with the workers that are at it. `folder` holds a lock for each worker that is alive."""

    def __init__(self, study: optuna.Study, folder: Path) -> None:
        self.study, self.folder = study, folder
        self.worker = f"{os.getpid()}-{uuid.uuid4().hex[:6]}"
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Be a worker of the study: what a killed one left half done is put back into the queue first."""
        try:
            with file_lock(self._lock(self.worker)):
                with file_lock(self.folder / "revive.lock"):
                    self._requeue()
                yield
        finally:
            self._lock(self.worker).unlink(missing_ok=True)

    def _lock(self, worker: str) -> Path:
        return self.folder / f"worker-{worker}.lock"

    def _alive(self, worker: str) -> bool:
        return is_locked(self._lock(worker))

    def _abandoned(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get("worker")
        if worker is None:
            return trial.datetime_start is not None and datetime.now() - trial.datetime_start > START
        return not self._alive(worker)

    def _requeue(self) -> None:
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._abandoned(trial):
                self.study.enqueue_trial(trial.params, user_attrs={"continues": trial.number})
                self.study.tell(trial.number, state=TrialState.FAIL)

    def counted(self) -> list[FrozenTrial]:
        """The trials that are over or under way, less those that a later one continues."""
        trials = self.study.get_trials(deepcopy=False)
        continued = {trial.user_attrs.get("continues") for trial in trials}
        return [t for t in trials if t.state != TrialState.WAITING and t.number not in continued]

    def ask(self, space: Space, seed: int, most: int) -> optuna.Trial | None:
        """The next trial, from the queue or drawn anew; None where `most` are counted already.

        Workers ask one after the other, so that each sees what the others draw.
        """
        with file_lock(self.folder / "ask.lock"):
            if len(self.counted()) >= most:
                return None
            if not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                self.study.enqueue_trial(self._draw(space, seed))
            trial = self.study.ask(space)
            trial.set_user_attr("worker", self.worker)
            return trial

    def _draw(self, space: Space, seed: int) -> dict[str, Any]:
        """Values by `seed` and what the trials so far have shown: others than those under way, if they can be found.

        Two workers with the same values would have the same run, for which one of them waits.
        """
        trials = self.study.get_trials(deepcopy=False)
        under_way = [trial.params for trial in trials if trial.state == TrialState.RUNNING]
        sampler = optuna.samplers.TPESampler(seed=seed + len(trials), constant_liar=True)
        copy = optuna.create_study(sampler=sampler, direction="maximize")  # in memory: draws leave no trace
        copy.add_trials(trials)
        for _ in range(DRAWS):
            params = copy.ask(space).params
            if params not in under_way:
                break
        return params


def repair_journal(path: str | Path) -> None:
    """Cut off the half line that a killed worker may have left at a journal's end, which would spoil the next one."""
    path = Path(path)
    if not path.exists():
        return
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            with open(path, "rb+") as file:
                file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()
