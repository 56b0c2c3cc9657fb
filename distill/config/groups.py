"""The YAML files: where they lie, what can be chosen, one node as plain Python. Imports neither torch nor timm."""

from __future__ import annotations

import difflib
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from distill.content.memo import kept_in, memoised
from distill.files import first_line

_T = TypeVar("_T")
OURS = "ValueError raised while resolving interpolation: "  # what OmegaConf puts before a resolver's own sentence
_TAKES = re.compile(r"\$\{[^${}:.][^${}:]*\}")  # ${seed}: another key's value
_LOOKED_UP = re.compile(r"\$\{(by_pair|by_method|by_dataset|paper|finetune):")  # by the run's own nets, method and data
TAKING = ("dataset", "schedule", "teacher", "student", "method")  # groups whose files take over what others hold


@cache
def conf_dir() -> Path:
    """The folder of the YAML files: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


_own: list[Path] = []  # folders of the user's, laid out as conf/


def use_folder(folder: str | Path | None) -> None:
    """Have `load` and `options` look into a folder of the user's, too (--config-dir). Raises ValueError: not there."""
    if folder is None:
        return
    path = Path(folder).resolve()
    if not path.is_dir():
        raise ValueError(f"--config-dir {folder}: there is no such folder")
    if path in _own:
        _own.remove(path)
    _own.insert(0, path)  # of several in one process (distill.run in a notebook) the one that is asked for counts


def conf_dirs() -> list[Path]:
    """Where YAML files lie: our own folder first, which nobody replaces, then those of --config-dir."""
    return [conf_dir(), *_own]


def load_node(group: str, name: str) -> DictConfig | None:
    """<group>/<name>.yaml, None where there is no such file; with what it takes over of others."""
    config = own_part(group, name)
    if config is not None and group in TAKING and "defaults" in config:
        taken: list[Any] = [load_node(*_named(group, str(other))) or {} for other in config.pop("defaults")]
        merged = OmegaConf.merge(*taken, config)
        return merged if isinstance(merged, DictConfig) else None
    return config


def own_part(group: str, name: str) -> DictConfig | None:
    """What <group>/<name>.yaml itself says, without what it takes over; None where there is no such file."""
    state = file_state(group, name)
    config = pickle.loads(_parsed(*state)) if state else None
    return config if isinstance(config, DictConfig) else None


def _place(group: str, name: str) -> Path | None:
    return next((path for folder in conf_dirs() if (path := folder / group / f"{name}.yaml").is_file()), None)


def file_state(group: str, name: str) -> tuple[Path, int] | None:
    """The file behind a name and when it was changed: what is kept of it is kept of these, for a notebook goes on."""
    path = _place(group, name)
    return (path, path.stat().st_mtime_ns) if path else None


@cache
def _parsed(path: Path, changed: int) -> bytes:
    """The file as it was at a time, for pickle, which copies in a tenth of deepcopy's time: a job asks for a dozen."""
    return pickle.dumps(OmegaConf.load(path))


def _named(group: str, entry: str) -> tuple[str, str]:
    """Group and name of an entry of a defaults list: `crd` of the same group, or `/_base/teacher@_here_`."""
    path = entry.partition("@")[0]
    above, _, name = path.rpartition("/")
    return above.strip("/") or group, name


def groups() -> list[str]:
    """The folders of conf in which something can be chosen."""
    return sorted(path.name for path in conf_dir().iterdir() if path.is_dir() and not path.name.startswith("_"))


def options(group: str) -> list[str]:
    """The names that can be chosen in a group."""
    return list(memoised(("options", group, *_own), lambda: _options(group)))


def _options(group: str) -> list[str]:
    found = {
        file.relative_to(folder / group).with_suffix("").as_posix()
        for folder in conf_dirs()
        for file in (folder / group).rglob("*.yaml")
    }
    return sorted(found)


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names that look most like `word`, best first; capitals do not count."""
    lowered: dict[str, str] = {}
    for name in known:
        lowered.setdefault(name.lower(), name)
    close = difflib.get_close_matches(word.lower(), lowered, n=count, cutoff=0.55)
    score = {name: difflib.SequenceMatcher(None, name, word.lower()).ratio() for name in close}
    return [lowered[name] for name in close if score[name] > max(score.values()) - 0.15]


def suggestion_or(close: Sequence[str], otherwise: str = "") -> str:
    """Half a sentence that names the nearest right names, or says something else where there is none."""
    return f"did you mean {' or '.join(close)}?" if close else otherwise


def no_such(kind: str, name: str, known: Iterable[str]) -> str:
    """The sentence that answers an unknown name of a kind of things, such as a group of conf/."""
    return f"there is no {kind} '{name}': {did_you_mean(name, known)}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Half a sentence that names the nearest right names, or all of them when nothing is near."""
    known = list(known)
    close = nearest(word, known)
    if close:
        return suggestion_or(close)
    return f"choose from {', '.join(known[:20])}{', ...' * (len(known) > 20)}" if known else "there are none"


_unchanged: dict[int, dict[str, Any]] = {}  # what was found out about configurations while nobody changes them


@contextmanager
def config_unchanged(cfg: DictConfig) -> Iterator[None]:
    """For as long as nobody changes `cfg`: `plain` resolves each of its nodes once, which is most of a plan's time."""
    if id(cfg) in _unchanged:
        yield
        return
    _unchanged[id(cfg)] = {}
    try:
        yield
    finally:
        del _unchanged[id(cfg)]


def while_unchanged(cfg: DictConfig, key: str, make: Callable[[], _T]) -> _T:
    """What `make()` finds out about `cfg`, once within a block in which that is unchanged: to be read alone."""
    return kept_in(_unchanged.get(id(cfg)), key, make)


def copied(cfg: DictConfig) -> DictConfig:
    """The run's nodes without Hydra's own, to be changed and added to: by pickle, which is faster than masked_copy."""
    copy: DictConfig = pickle.loads(pickle.dumps(cfg))
    OmegaConf.set_readonly(copy, False)
    OmegaConf.set_struct(copy, False)
    copy.pop("hydra", None)
    return copy


def settled(cfg: DictConfig) -> DictConfig:
    """The same for a run that another needs, whose seed, method and nets are others: what `taken` finds stays."""
    copy = copied(cfg)
    for path, value in taken(cfg).items():
        node: Any = copy
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
    return copy


def taken(cfg: DictConfig) -> dict[tuple[Any, ...], Any]:
    """What keys take from other keys (${seed}), by their paths; what each run is to look up for itself, as
    ${by_method:...}, the method's own keys and the place of its record (output=outputs/${method.name}), is left out.
    """
    return while_unchanged(cfg, "taken", lambda: _all_taken(cfg))


def _all_taken(cfg: DictConfig) -> dict[tuple[Any, ...], Any]:
    found: dict[tuple[Any, ...], Any] = {}
    for key in {*map(str, cfg)} - {"method", "teacher", "output", "tracking", "hydra"}:
        node: Any = cfg._get_node(key)
        written = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node._value()
        if _TAKES.search(str(written)):
            found |= _taken((key,), written, plain(cfg, key))
    return found


def _taken(path: tuple[Any, ...], written: Any, value: Any) -> dict[tuple[Any, ...], Any]:
    if isinstance(written, str):
        return {path: value} if _TAKES.search(written) and not _LOOKED_UP.search(written) else {}
    below = written.items() if isinstance(written, dict) else enumerate(written) if isinstance(written, list) else ()
    return {key: each for name, one in below for key, each in _taken((*path, name), one, value[name]).items()}


def interpolated(cfg: DictConfig, key: str) -> bool:
    """Whether a key of the method takes its value from `key`."""
    method: Any = OmegaConf.to_container(cfg.method, resolve=False)
    return any(f"${{{key}}}" in str(value) for name, value in method.items() if name != "about")


def plain(cfg: DictConfig, key: str) -> Any:
    """The node `key` of `cfg`, resolved, as plain Python. Raises ValueError naming a key without a value."""
    if id(cfg) not in _unchanged:
        return _plain(cfg, key)
    return pickle.loads(while_unchanged(cfg, f"plain {key}", lambda: pickle.dumps(_plain(cfg, key))))


def _plain(cfg: DictConfig, key: str) -> Any:
    try:
        node = OmegaConf.select(cfg, key, throw_on_missing=True)
        if not OmegaConf.is_config(node):
            return node
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        name = error.full_key or key
        raise ValueError(f"{name} has no value: give one, {name}=...") from error
    except OmegaConfBaseException as error:
        reason = first_line(error, error.msg)
        if lacking := re.search(r"Missing mandatory value: ([\w.]+)$", reason):  # what the key takes over
            raise ValueError(f"{lacking[1]} has no value: give one, {lacking[1]}=...") from error
        if reason.startswith(OURS):
            raise ValueError(reason.removeprefix(OURS)) from error
        raise ValueError(f"{error.full_key or key} cannot be resolved: {reason}") from error


def slug(name: Any) -> str:
    """A name that is safe as one folder: letters, digits and . _ + - stay, all else becomes a hyphen."""
    return re.sub(r"[^A-Za-z0-9._+]+", "-", str(name)).strip("-.") or "x"


def as_plain(node: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """A mapping by itself, resolved, as plain Python. Raises ValueError as `plain` does."""
    holder = node if isinstance(node, DictConfig) else OmegaConf.create(dict(node))
    return {str(key): plain(holder, str(key)) for key in holder}
