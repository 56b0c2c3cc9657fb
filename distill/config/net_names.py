"""Which names of networks are known, ours and timm's, without importing torch or timm."""

import re
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from distill.config.groups import nearest
from distill.config.our_nets import CIFAR_PREFIX, OUR_NETS
from distill.content.fingerprint import LOCAL

HUBS = ("hf_hub:", "hf-hub:")  # addresses of models on the Hub begin so
_REGISTERED = re.compile(r"^@register_model\s*\ndef\s+(\w+)", re.MULTILINE)


@cache
def timm_files() -> dict[str, str]:
    """timm's registered names, each with its source file's (resnet): read from these, since importing takes seconds."""
    spec = find_spec("timm")
    if spec is None or spec.origin is None:
        return {}
    files = (Path(spec.origin).parent / "models").glob("*.py")
    return {name: file.stem for file in files for name in _REGISTERED.findall(file.read_text(encoding="utf-8"))}


def timm_names() -> frozenset[str]:
    """timm's registered names."""
    return frozenset(timm_files())


def is_known(name: str) -> bool:
    """Whether build() can make it: ours, timm's (also with a tag, resnet18.a1_in1k), a hub address or such a folder."""
    if name.startswith(LOCAL):
        return (Path(name.removeprefix(LOCAL)) / "config.json").is_file()
    return (
        name in OUR_NETS
        or name.split(".")[0] in timm_files()
        or name.startswith(HUBS)
        or is_registered(name)
    )


def is_registered(name: str) -> bool:
    """Whether somebody, such as a plugin, has put a net of that name into timm's registry, which is not imported."""
    registry = sys.modules.get("timm.models._registry")
    return registry is not None and bool(registry.is_model(name))


def nearest_nets(name: str) -> list[str]:
    """Up to three names that look like it, ours before timm's; prefix and case are ignored."""
    known: dict[str, list[str]] = {}
    for candidate in (*OUR_NETS, *sorted(timm_files())):
        known.setdefault(_bare(candidate), []).append(candidate)
    return [candidate for key in nearest(_bare(name).split(".")[0], known) for candidate in known[key]][:3]


def _bare(name: str) -> str:
    return name.removeprefix(CIFAR_PREFIX).removeprefix("mnist_").lower()
