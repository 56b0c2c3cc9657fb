"""Settings that a method cannot have: words that are none of its own, and views of images that it would mix up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill.data import DataInfo


def check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    """Raise ValueError where method.KEY is none of its words."""
    if value not in (known := tuple(choices)):
        raise ValueError(f"method.{key} is {value!r}: it is one of {', '.join(known)}.")


def check_one_view(method: str, nets: str, data: DataInfo) -> None:
    """Raise ValueError where teachers have a view of the images of their own, and `nets`, in words, see the student's
    as well, in training or where they are reported.
    """
    if data.teacher is not None:
        raise ValueError(
            f"{method} shows {nets} the student's images, and dataset.views give teachers others: leave dataset.views "
            "null, or take method=kd"
        )
