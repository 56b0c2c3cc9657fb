"""Any error as one sentence of ours, with the file or key and a remedy; no library's words are passed on alone."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from distill.config.groups import no_such
from distill.files import SaveError
from distill.terminal import printable

LONGEST, BEGINNING = 300, 200  # letters of a sentence, and of its beginning where the middle is left out
REMEDIES = {
    errno.ENOENT: "check the path",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EROFS: "choose a place that can be written",
    errno.EISDIR: "give a file",
    errno.EEXIST: "give another name",
    errno.ENOTDIR: "give a folder",
    errno.ELOOP: "remove the link that leads to itself",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EMFILE: "allow more open files (ulimit -n), or lower dataset.workers",
    errno.ENOMEM: "free some memory",
    errno.EIO: "the disk fails: try again, or elsewhere",
}


def format_error(error: BaseException) -> str:
    """An error as one sentence, at most 300 letters long unless HYDRA_FULL_ERROR=1; its type where it says nothing."""
    return shortened(printable(" ".join(_sentence(error).split()))) or type(error).__name__


def shortened(text: str) -> str:
    """A sentence with its beginning and its end, where the file and the remedy are."""
    if len(text) <= LONGEST or os.environ.get("HYDRA_FULL_ERROR") == "1":
        return text
    mark = " [...] "
    return text[:BEGINNING].rstrip() + mark + text[BEGINNING + len(mark) - LONGEST :].lstrip()


def _sentence(error: BaseException) -> str:
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return no_such(group, name, error.options)
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read as key=value: quote a value with blanks, commas, brackets, ~ or é"
    text = str(error).strip()
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return ". ".join(line.strip().rstrip(".") for line in text.splitlines() if line.strip())
    if sentence := _of_one_image(error, text):
        return sentence
    if isinstance(error, (ValueError, SaveError)) and not isinstance(error, UnicodeError):
        return text  # ours
    return next((sentence for kind in _KINDS if (sentence := kind(error, text))), text)


def _of_a_file(error: BaseException, text: str) -> str:
    if not isinstance(error, OSError) or error.errno is None:
        return ""
    reason = error.strerror or type(error).__name__
    remedy = REMEDIES.get(error.errno, "try again, or elsewhere")
    return f"{error.filename if error.filename is not None else 'a file'}: {reason}: {remedy}"


def _of_text(error: BaseException, text: str) -> str:
    return f"a file is no text in UTF-8 ({text}): write it anew" if isinstance(error, UnicodeError) else ""


def _of_an_archive(error: BaseException, text: str) -> str:
    where = type(error).__module__.partition(".")[0]
    packed = where in ("zlib", "zipfile", "lzma", "gzip", "tarfile") or isinstance(error, EOFError)
    return f"a compressed file is damaged ({text or 'it ends too soon'}): fetch it again" if packed else ""


def _of_an_image(error: BaseException, text: str) -> str:
    pillows = type(error).__module__.partition(".")[0] == "PIL"
    return f"an image cannot be decoded ({text}): replace or remove it, or dataset.damaged=skip" if pillows else ""


def _of_weights(error: BaseException, text: str) -> str:
    if not (isinstance(error, RuntimeError) and "loading state_dict" in text):
        return ""
    lines = text.splitlines()
    first = lines[1].strip() if len(lines) > 1 else ""
    return f"weights do not fit the net ({first[:120]}): check teacher.weights, student.weights and the model"


def _of_one_image(error: BaseException, text: str) -> str:
    return ("a batch has one image, of which a BatchNorm knows no spread: give another schedule.batch_size, or "
            "schedule.last_batch=merge" if "more than 1 value per channel" in text else "")  # fmt: skip


def _of_memory(error: BaseException, text: str) -> str:
    if type(error).__name__ == "OutOfMemoryError":
        return "the GPU's memory does not suffice: lower schedule.batch_size, or set teacher.cache=off"
    return "the memory does not suffice: lower schedule.batch_size" if isinstance(error, MemoryError) else ""


def _of_depth(error: BaseException, text: str) -> str:
    return "something is nested without an end: look for what contains itself" * isinstance(error, RecursionError)


def _of_arguments(error: BaseException, text: str) -> str:
    found = re.search(r"(\w+)\.?(?:__init__)?\(\) (got an unexpected keyword argument|missing) (.*)", text)
    if not isinstance(error, TypeError) or not found:
        return ""
    return f"{found[1]} does not take what it was given ({found[2]} {found[3]}): see the args and the method's keys"


_KINDS: tuple[Callable[[BaseException, str], str], ...] = (
    _of_an_image, _of_an_archive, _of_text, _of_weights, _of_memory, _of_depth, _of_arguments, _of_a_file,
)  # fmt: skip
