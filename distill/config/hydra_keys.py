"""Keys of Hydra's own on a command line: of a kind and in a range, and refused where nothing of ours reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distill.config.groups import did_you_mean
from distill.config.rules import (
    ANY_LIST,
    COUNT,
    FLAG,
    NODE,
    POSITIVE,
    TEXT,
    WHOLE_NUMBER,
    Rule,
    check_rule,
    either,
    is_number,
    list_of,
    one_of,
    or_null,
    whole,
)

_GPUS = list_of(either(WHOLE_NUMBER, TEXT), "[0,1]")
_AT_A_TIME, _AUTO = whole(1, 4096), one_of("auto")
_ONE_PROCESS: Rule = (
    lambda value: is_number(value) and value == 1,
    "must be 1: a run of a sweep is one process, and torchrun, without -m, shares one run among several",
)
_OF_SLURM: dict[str, Rule] = {
    **dict.fromkeys(("submitit_folder", "name"), TEXT),
    **dict.fromkeys(("partition", "account", "qos", "constraint", "comment", "exclude", "gres"), or_null(TEXT)),
    **dict.fromkeys(("timeout_min", "array_parallelism", "cpus_per_task"), COUNT),
    **dict.fromkeys(("nodes", "tasks_per_node"), _ONE_PROCESS),
    **dict.fromkeys(("max_num_timeout", "signal_delay_s"), WHOLE_NUMBER),
    **dict.fromkeys(("gpus_per_node", "gpus_per_task", "cpus_per_gpu"), or_null(WHOLE_NUMBER)),
    "mem_gb": or_null(POSITIVE),
    **dict.fromkeys(("mem_per_gpu", "mem_per_cpu"), or_null(either(POSITIVE, TEXT))),
    "stderr_to_stdout": FLAG,
    "setup": or_null(ANY_LIST),
    "additional_parameters": NODE,
}
_RETRIES: dict[str, Rule] = {"retries": whole(0, 1000)}
LAUNCHERS: dict[str, dict[str, Rule]] = {  # the keys of each file in conf/hydra/launcher
    "basic": {},
    "local": {"slots": either(_AT_A_TIME, _AUTO), "gpus": or_null(either(_GPUS, _AUTO)), **_RETRIES},
    "packed": {"per_device": either(_AT_A_TIME, _AUTO)},
    "ray": {"init": NODE, "remote": NODE, **_RETRIES},
    "slurm": {**_OF_SLURM, **_RETRIES},
}
SWEEPER: dict[str, Rule] = {"max_batch_size": or_null(COUNT)}
_PLACES = ("hydra.run.", "hydra.sweep.", "hydra.job.chdir", "hydra.job.name", "hydra.output_subdir")
_READ = ("hydra.mode", "hydra.verbose", "hydra.searchpath", "hydra.hydra_logging", "hydra.job_logging",
         "hydra.job.env_set", "hydra.job.env_copy")  # fmt: skip


def check_hydra(overrides: Sequence[Any], sweeps: bool, a_job: bool) -> None:
    """Raise ValueError for what a command line gives Hydra itself and no run of ours would honour.

    overrides: of Hydra's parser. sweeps: whether there are several runs; a_job: whether this is one run of a sweep,
    whose command has keys of the launcher that started it.
    """
    chosen = {item.key_or_group: str(item.value()) for item in overrides if not item.is_delete()}
    launcher = chosen.get("hydra/launcher", "local")
    for item in overrides:
        key, value = item.key_or_group, None if item.is_delete() else item.value()
        if not key.startswith(("hydra.", "hydra/")):
            continue
        launching = key.startswith(("hydra.launcher", "hydra.sweeper")) or key in ("hydra/launcher", "hydra/sweeper")
        if launching and not sweeps and not a_job and value != "basic":
            raise ValueError(f"{item.input_line} does nothing here: it is of several runs, and this is one: add -m")
        if key.startswith(_PLACES):
            raise ValueError(f"{key} is not read: runs lie below `output` and under their own names; set output=FOLDER")
        if key.startswith("hydra.launcher"):
            if launcher in LAUNCHERS:  # else it is the user's own
                _check_value(key, value, f"hydra/launcher={launcher}", LAUNCHERS[launcher])
        elif key.startswith("hydra.sweeper.params"):
            raise ValueError(f"{key} is for files of experiments: give the keys themselves, as in seed=1,2 -m")
        elif key.startswith("hydra.sweeper"):
            _check_value(key, value, "hydra/sweeper", SWEEPER)
        elif key.startswith("hydra.") and not key.startswith(_READ):
            raise ValueError(f"{key} is not read: leave it away")


def _check_value(key: str, value: Any, of: str, rules: dict[str, Rule]) -> None:
    """Hold a key of a launcher, or of the sweeper, against what is declared; a dictionary each key of it."""
    parts = key.split(".")
    if len(parts) == 2:
        for name, below in value.items() if isinstance(value, dict) else [("", None)]:
            _check_value(f"{key}.{name}", below, of, rules)
        return
    rule = rules.get(parts[2])
    if rule is None:
        known = [f"{'.'.join(parts[:2])}.{name}" for name in rules]
        hint = did_you_mean(key, known) if known else "leave it away"
        raise ValueError(f"{of} has no key '{parts[2]}' ({key}): {hint}")
    if len(parts) > 3 and rule is not NODE:
        raise ValueError(f"{key}: {'.'.join(parts[:3])} is no dictionary: give it a value, without what is below")
    if len(parts) == 3:
        check_rule(key, value, rule)
