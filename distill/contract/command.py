"""Ask a method what every method owes: a line for each clause, held or broken and why."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import distill.errors as errors
from distill.config import did_you_mean, options, register
from distill.config.own_code import own_line
from distill.contract.clauses import CLAUSES, Broken
from distill.contract.world import World, world_of
from distill.files import one_line


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what may follow `distill check-method`."""
    add = parser.add_argument
    add("method", metavar="METHOD", help="a name in conf/method, or in method/ of --config-dir")
    add("settings", nargs="*", metavar="KEY=VALUE", help="such as method.weight=2; plugins: what its _target_ names")


def run(args: argparse.Namespace) -> int:
    """Print what is held and what is broken. Returns 1 where something is. Raises ValueError for an unknown method."""
    register()
    if args.method not in options("method"):
        hint = did_you_mean(args.method, options("method"))
        raise ValueError(f"there is no method '{args.method}': {hint}; --config-dir FOLDER names a folder of your own")
    world = world_of(args.method, args.settings, args.config_dir)
    broken = 0
    for clause, why in answers(world):
        broken += why is not None
        print(f"broken  {clause}: {why}" if why else f"held    {clause}", flush=True)
    print(f"{world.name}: {len(CLAUSES) - broken} of {len(CLAUSES)} clauses held")
    return errors.FAILED if broken else errors.DONE


def answers(world: World) -> Iterator[tuple[str, str | None]]:
    """Each clause in words, and why it is broken, None where it is held."""
    for clause in CLAUSES:
        why = None
        try:
            clause(world)
        except (Broken, ValueError) as error:
            why = f"{error}{own_line(error)}"
        except Exception as error:  # whatever the user's method does
            why = f"{type(error).__name__}: {one_line(error)}{own_line(error)}"
        yield clause.__name__.replace("_", " "), why
