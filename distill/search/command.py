"""Look for hyper-parameters on held-out training images (dataset.holdout=0.1 unless you set it), never on the test set.

The same command again goes on; run it several times at once for several workers.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from typing import Any

from hydra import compose, initialize_config_dir

import distill.config as config
import distill.errors as errors
import distill.torchrun as torchrun
from distill.cli.command import BASE, read_command, searched
from distill.cli.sentences import format_error
from distill.config.check import check
from distill.record.progress import final_table
from distill.sweep import add_launchers

GIVE_UP = 3  # failures before anything has worked


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what may follow `distill search`."""
    example = "as of a run; drawn are a=range(1,20) b=interval(0.01,0.1) c=tag(log,interval(1,9)) d=x,y"
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=example)
    parser.add_argument("--trials", type=int, default=20, help="in all, those of earlier and other workers included")
    parser.add_argument("--storage", help="a file, or a database as sqlite:///FILE (default: a file below output)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--startup", type=int, help="trials before a bad one is stopped early (default: 5)")
    parser.add_argument("--warmup", type=int, help="epochs before a trial is judged (default: 1)")
    parser.add_argument("--no-pruning", action="store_true", help="stop no trial early")


def run(args: argparse.Namespace) -> int:
    """Draw, run, tell, until there are enough trials; then show the table and the best command line."""
    torchrun.refuse_sweep("search")
    for key in ("trials", "seed", "startup", "warmup"):
        if isinstance(given := getattr(args, key), int) and given < (key == "trials"):
            raise ValueError(f"--{key} is {given}: give at least {int(key == 'trials')}")
        if args.no_pruning and key in ("startup", "warmup") and given is not None:
            raise ValueError(f"--{key} says when a trial may be stopped early, and --no-pruning stops none: give one")
    startup, warmup = (usual if own is None else own for own, usual in ((args.startup, 5), (args.warmup, 1)))
    add_launchers()
    config.register()
    try:
        import optuna
    except ImportError as error:
        raise ValueError("optuna is not installed: pip install 'distill[hpo]'") from error
    import distill.search.space as space
    import distill.search.study as study
    from distill.search.trial import with_holdout

    command = read_command(["--multirun", *args.overrides], drawn=True)
    overrides = [text for text in command.argv if text != "--multirun"]
    _refuse_sweeps(overrides, command.of_file)
    flags = ["--config-dir", args.config_dir] if args.config_dir else []
    fixed, drawn = space.split(overrides)
    first = _compose(fixed)
    fixed += with_holdout(first)
    output, name = first.output, study.name_of(fixed, drawn)
    where = args.storage or str(output / "search" / f"{name}.journal")
    if "://" not in where:
        study.repair_journal(where)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner: Any = optuna.pruners.NopPruner()
    if not args.no_pruning:
        pruner = optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup)
    made = optuna.create_study(
        storage=study.storage(where), study_name=name, direction="maximize", pruner=pruner, load_if_exists=True
    )
    search = study.Search(made, output / "search" / name)
    place = study.without_password(where)
    print(f"search {name} in {place}: {len(search.counted())} of {args.trials} trials so far", flush=True)
    with search.working():
        while trial := search.ask(drawn, args.seed, args.trials):
            _one(search, trial, fixed, flags)
            _give_up(search)
    return _report(search, [*flags, *fixed], drawn)


def _refuse_sweeps(overrides: list[str], of_file: tuple[str, ...]) -> None:
    """Raise ValueError for what is of sweeps alone, and no trial would follow."""
    if of_file:
        asked = ", ".join(text.partition("=")[0] for text in of_file)
        raise ValueError(f"the experiment is a sweep over {asked}: give each of them, as one value or as what is to be "
                         f"drawn ({of_file[0]})")  # fmt: skip
    for text in overrides:
        if text.lstrip("+~").startswith(("hydra/", "hydra.")) and "hydra.searchpath=" not in text:
            raise ValueError(f"{text} does nothing here, for trials run one after the other: leave it away, and start "
                             "the same search several times for several workers")  # fmt: skip


def _one(search: Any, trial: Any, fixed: list[str], flags: list[str]) -> None:
    """Run a trial and tell what came of it; a signal leaves it to be continued by the next worker."""
    from optuna.trial import TrialState

    from distill.search.space import words
    from distill.search.trial import run_trial

    values, state, why = None, TrialState.COMPLETE, ""
    overrides = [*fixed, *words(trial.params)]
    sys.argv[1:] = [*flags, *overrides]  # the command that the run's result names
    try:
        values = run_trial(trial, _compose(overrides))
        if values is None:
            state, why = TrialState.PRUNED, "stopped early"
    except errors.Stopped:
        raise
    except errors.NonFinite as error:
        state, why = TrialState.PRUNED, format_error(error)
    except Exception as error:
        state, why = TrialState.FAIL, format_error(error)
        logging.debug("trial %d failed", trial.number, exc_info=True)
    trial.set_user_attr("why", why)
    search.study.tell(trial, values, state=state)
    outcome = f"{values:.2f} %" if values is not None else f"{state.name.lower()}: {why}"
    print(f"trial {trial.number}: {outcome}  {' '.join(words(trial.params))}", flush=True)


def _give_up(search: Any) -> None:
    trials = search.counted()
    if len(trials) >= GIVE_UP and all(trial.state.name == "FAIL" for trial in trials):
        why = trials[-1].user_attrs.get("why")
        raise ValueError(f"the first {len(trials)} trials all failed, the last with: {why}")


def _compose(overrides: list[str]) -> config.RunSpec:
    with initialize_config_dir(str(config.conf_dir()), job_name="distill", **BASE):
        cfg = compose("config", [*overrides, *searched()])
        check(cfg)
        return config.resolve(cfg)


def _report(search: Any, fixed: list[str], drawn: dict[str, Any]) -> int:
    from distill.search.space import words

    done = [trial for trial in search.counted() if trial.state.name == "COMPLETE"]
    rest = [trial for trial in search.counted() if trial.state.name != "COMPLETE"]
    done.sort(key=lambda trial: -trial.value)
    rows = [
        [trial.number, _outcome(trial), len(trial.intermediate_values) or None, *map(_shown, trial.params.values())]
        for trial in [*done, *rest]
    ]
    final_table(rows, ["trial", "held-out accuracy, %", "epochs", *drawn], f"search {search.study.study_name}")
    if not done:
        print("distill: no trial was run to its end", file=sys.stderr)
        return errors.FAILED
    kept = [text for text in fixed if not text.startswith("dataset.holdout=")]
    command = shlex.join(["python", "-m", "distill", *kept, *words(done[0].params)])
    print(f"\nThe best, trained on all training images and measured on the test set:\n{command}")
    return errors.DONE


def _outcome(trial: Any) -> str:
    if trial.value is not None and trial.state.name == "COMPLETE":
        return f"{trial.value:.2f}"
    reached = list(trial.intermediate_values.values())
    return f"{trial.state.name.lower()}{f' at {reached[-1]:.2f}' if reached else ''}"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
