"""What the program does besides running experiments: `distill report outputs`, a verb and its arguments.

A verb is a module with `arguments(parser)`, which declares what may follow it, and `run(options)`, which does it and
may return an exit code. It is imported when it is asked for, so that `distill --help` stays fast.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import NoReturn

import distill.errors as errors
from distill.config.groups import did_you_mean, use_folder
from distill.config.output_folder import check_destination
from distill.config.own_files import check_folder
from distill.files import SaveError
from distill.signals import StopSignals, report_stop
from distill.terminal import printable

VERBS = {  # each verb's module, and what it does
    "report": ("distill.report.command", "tables of finished runs, beside published values"),
    "analyze": ("distill.analyze.command", "pictures of a finished run"),
    "probe": ("distill.probe.command", "a linear layer on a frozen net, on other data"),
    "search": ("distill.search.command", "hyper-parameters, on held-out images"),
    "export": ("distill.export.command", "a student as a folder for timm and ONNX"),
    "eval": ("distill.export.evaluate", "a run or an exported folder, measured"),
    "predict": ("distill.export.predict", "classes of image files, as CSV"),
    "check-method": ("distill.contract.command", "what every method owes, asked of your own"),
    "methods": ("distill.cli.catalogue", "the methods and their papers"),
    "status": ("distill.cli.status", "what is done, running, queued or cut off"),
}


def is_verb(word: str) -> bool:
    """Whether `word` is a verb's name."""
    return word in VERBS


def is_setting(word: str) -> bool:
    """Whether `word` may begin a run's command line: a flag, key=value, or ~key, which takes a key away."""
    return "=" in word or word.startswith(("-", "~"))


def run(verb: str, *argv: str) -> int:
    """Carry out a verb; a mistake is one sentence. Returns the exit code, one of distill.errors."""
    if not is_verb(verb):
        hint = did_you_mean(verb, VERBS)
        return print_error(f"there is no verb '{verb}' ({hint}), and a setting is written key=value", errors.USAGE)
    try:
        module = import_module(VERBS[verb][0])
        parser = _Parser(f"distill {verb}", description=module.__doc__)
        module.arguments(parser)
        parser.add_argument("--config-dir", metavar="FOLDER", help="YAML files of your own, laid out as conf/")
        options = parser.parse_intermixed_args(argv)
        use_folder(options.config_dir)
        if options.config_dir:
            check_folder(Path(options.config_dir))
        for action in parser._actions:
            if action.dest in ("out", "to") and isinstance(place := getattr(options, action.dest), Path):
                check_destination(f"--{action.dest}", place, action.metavar == "FOLDER")
        logging.basicConfig(level=logging.INFO, format="[%(asctime)s] %(message)s", datefmt="%H:%M:%S")
        with StopSignals(at_once=True):
            code = module.run(options) or errors.DONE
        sys.stdout.flush()
    except BrokenPipeError:
        return output_closed()
    except (errors.Stopped, KeyboardInterrupt) as stop:
        return report_stop(stop)
    except Exception as error:
        return _failed(error)
    return code


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line as the rest of the program does."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; {self.prog} --help lists what there is")


def _failed(error: Exception) -> int:
    """Say in a sentence why a verb ended; what is nobody's mistake is raised again."""
    from distill.cli.sentences import format_error

    code = errors.USAGE if isinstance(error, OSError) else errors.exit_code(error)
    if code == errors.FAILED and not isinstance(error, SaveError):
        raise error
    show_traceback()
    return print_error(format_error(error), code)


def output_closed() -> int:
    """What reads the output, such as `head`, has seen enough: that is no failure."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return errors.DONE


def print_error(text: str, code: int) -> int:
    """Print a sentence to standard error and return `code`."""
    print(f"distill: {printable(text)}", file=sys.stderr)
    return code


def show_traceback() -> None:
    """Print the traceback of the error that is being handled where the user asked for it."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exc()


def help_lines() -> str:
    """The verbs and what they do, two a line, for the help page."""
    cells = [f"{verb:<12} {what}" for verb, (_, what) in VERBS.items()]
    pairs = zip_longest(cells[::2], cells[1::2], fillvalue="")
    return "\n".join(f"  {left:<62} {right}".rstrip() for left, right in pairs)
