"""Our values beside those that the authors' own code computed (tests/reference/*.npz, described in its README).

A case is a function that feeds a file's inputs to our method and hands back what came out:

    @case("kd_T4")
    def kd(ref: Reference) -> None:
        built = method("kd", Given(ref.input("s")), [Given(ref.input("t"))])  # given.py: as the YAML says, on nets
        ref.total(total(losses(built, ref.input("label"))))                   # that show the file's tensors

`ref.total` compares the value with `expect/total`, runs backward and compares the gradient of every input and head
that the file has one for. `ref.value` and `ref.gradient` compare anything else. `run(name)` gives the differences;
tests/test_reference.py holds them to their tolerances and demands that nothing of a file is left uncompared.
The modules of this folder are imported by `cases()`; a new one needs no list.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parent.parent / "reference"
TOLERANCE = 1e-5


@dataclass
class Case:
    """A comparison with one file, and what it may differ by.

    value, gradient: the largest relative differences allowed; `why` says where they are not 1e-5.
    leave: keys of the file that are not compared, each with the reason.
    single: tolerances of single keys (patterns such as "after_norm/*"), where one noisy number would loosen them all.
    departs: True where our method differs on purpose (about.departs of its YAML says by how much): then the
    differences must be at least `value` and `gradient` instead, so that the claim stays true.
    """

    name: str
    compare: Callable[[Reference], None]
    value: float = TOLERANCE
    gradient: float = TOLERANCE
    why: str = ""
    leave: dict[str, str] = field(default_factory=dict)
    single: dict[str, float] = field(default_factory=dict)
    departs: bool = False


@dataclass
class Differences:
    """Largest relative difference of values and of gradients, and what of the file was not compared.

    beyond: keys with a tolerance of their own that are beyond it; `value` and `gradient` are of all other keys.
    """

    value: float
    gradient: float | None
    each: dict[str, float]
    missing: list[str]
    beyond: list[str]


CASES: dict[str, Case] = {}


def case(name: str, **options: Any) -> Callable[[Callable[[Reference], None]], Callable[[Reference], None]]:
    """Register a function as the comparison with tests/reference/<name>.npz; options are Case's fields."""

    def register(compare: Callable[[Reference], None]) -> Callable[[Reference], None]:
        if name in CASES:
            raise ValueError(f"two cases for the reference file '{name}'")
        CASES[name] = Case(name, compare, **options)
        return compare

    return register


def cases() -> dict[str, Case]:
    """All cases of this folder's modules by the names of their files."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{__name__}.{module.name}")
    return CASES


def run(name: str) -> Differences:
    """Compute a case and return how far it is from its file."""
    reference = Reference(name)
    known = cases()[name]
    known.compare(reference)
    left = set(known.leave)
    seen = {key: difference for key, difference in reference.seen.items() if key not in left}
    missing = [key for key in reference.expected if key not in seen and key not in left]
    own = {key: limit for key in seen for pattern, limit in known.single.items() if fnmatchcase(key, pattern)}
    rest = {key: difference for key, difference in seen.items() if key not in own}
    return Differences(
        value=max((d for key, d in rest.items() if not key.startswith("grad")), default=0.0),
        gradient=max((d for key, d in rest.items() if key.startswith("grad")), default=None),
        each=seen,
        missing=missing,
        beyond=[key for key, limit in own.items() if seen[key] > limit],
    )


class Reference:
    """One file: its inputs, initial heads and settings, and the differences that were seen.

    Inputs for which the file holds a gradient require one.
    """

    def __init__(self, name: str) -> None:
        with np.load(FOLDER / f"{name}.npz") as file:
            arrays = {key: file[key] for key in file.files}
        self.name = name
        self.meta: dict[str, Any] = json.loads(str(arrays.pop("meta"))) if "meta" in arrays else {}
        self.hyper: dict[str, Any] = self.meta.get("hyper", {})
        self.arrays = {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}
        self.expected = [key for key in self.arrays if key.startswith(("expect/", "grad", "after_"))]
        self.inputs = {key[3:]: value for key, value in self.arrays.items() if key.startswith("in/")}
        for key, value in self.inputs.items():
            value.requires_grad_(f"grad/{key}" in self.arrays)
        self.tracked: dict[str, Tensor] = {}
        self.placed: dict[str, tuple[nn.Module, str]] = {}
        self.seen: dict[str, float] = {}

    def input(self, name: str) -> Tensor:
        """The input `in/<name>`; it requires a gradient where the file has one."""
        return self.inputs[name]

    def __getitem__(self, key: str) -> Tensor:
        """Any array of the file by its whole key."""
        return self.arrays[key]

    def heads(self, prefix: str = "") -> dict[str, Tensor]:
        """Initial weights `head/<prefix>...` by the rest of their names."""
        start = f"head/{prefix}"
        return {key[len(start) :]: value for key, value in self.arrays.items() if key.startswith(start)}

    def load(self, module: nn.Module, prefix: str, rename: Callable[[str], str] = str) -> None:
        """Put the initial weights `head/<prefix>...` into our module, and compare its gradients under these names.

        rename: from the authors' name of a tensor, without the prefix, to ours. Buffers that the file lacks stay.
        """
        state, own = module.state_dict(), dict(module.named_parameters())
        for name, value in self.heads(prefix).items():
            ours = rename(name)
            state[ours] = value.reshape(state[ours].shape).to(state[ours].dtype)
            self.placed[f"{prefix}{name}"] = (module, ours)
            if ours in own:
                self.tracked[f"{prefix}{name}"] = own[ours]
        module.load_state_dict(state)

    def total(self, loss: Tensor, key: str = "total", grad: str = "") -> None:
        """Compare the loss with `expect/<key>`, and its gradients with `grad/<grad>*` and `grad_head/<grad>*`."""
        self.value(key, loss)
        for tensor in (*self.inputs.values(), *self.tracked.values()):
            tensor.grad = None
        loss.backward()
        for name, tensor in self.inputs.items():
            if name.startswith(grad) and f"grad/{name}" in self.arrays and tensor.grad is not None:
                self.gradient(f"grad/{name}", tensor.grad)
        for name, tensor in self.tracked.items():
            if f"grad_head/{grad}{name}" in self.arrays and tensor.grad is not None:
                self.gradient(f"grad_head/{grad}{name}", tensor.grad)

    def value(self, key: str, ours: Tensor | float) -> float:
        """Compare a value with `expect/<key>` (or a whole key): |difference| / |expected|, by norms."""
        full = key if "/" in key and key in self.arrays else f"expect/{key}"
        return self._compare(full, torch.as_tensor(ours).detach())

    def gradient(self, key: str, ours: Tensor) -> float:
        """Compare a gradient with the array of this whole key: norm of the difference over the expected norm.

        One that is nothing but rounding beside the file's largest (of a bias before a BatchNorm) is measured by that.
        """
        largest = max(float(value.norm()) for name, value in self.arrays.items() if name.startswith("grad"))
        return self._compare(key, ours.detach(), largest)

    def after(self, name: str, ours: Tensor) -> None:
        """Compare a tensor after the last step: its norm, beside 1e-3 at least, and some of its values as they are."""
        norm, expected = float(ours.double().norm()), float(self.arrays[f"after_norm/{name}"])
        self.seen[f"after_norm/{name}"] = abs(norm - expected) / max(expected, 1e-3)
        values = self.arrays[f"after_sample/{name}"]
        self.seen[f"after_sample/{name}"] = float((sampled(ours, len(values)) - values).abs().max())

    def _compare(self, key: str, ours: Tensor, largest: float = 0.0) -> float:
        expected = self.arrays[key].double().flatten()
        got = ours.double().flatten()
        if got.shape != expected.shape:
            raise ValueError(f"{self.name}: {key} holds {len(expected)} numbers, ours {len(got)}")
        norm = float(expected.norm())
        norm = largest if norm < TOLERANCE * largest else norm
        difference = float((got - expected).norm()) / norm if norm else float(got.norm())
        self.seen[key] = max(difference, self.seen.get(key, 0.0))
        return difference


def sampled(tensor: Tensor, most: int = 16) -> Tensor:
    """Values of a flattened tensor at evenly spaced places, as the files of whole steps have them."""
    flat = tensor.detach().flatten().float()
    places = np.unique(np.linspace(0, len(flat) - 1, min(most, len(flat))).astype(int))
    return flat[torch.from_numpy(places)]
