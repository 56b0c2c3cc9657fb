"""Keys that exist, and that nothing reads beside the others of a run: refused where somebody has given them.

Each key is ALWAYS read, or stands in READ_BY with what reads it; `about.only` of a method's YAML says the same of the
method's own keys: {gamma: form=kernel}. A default may stand idle: a schedule's file serves all methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distill.config.groups import interpolated, plain
from distill.config.hashing import WHOLE_SET, has_teacher, hashed_config, reads, teacher_specs
from distill.config.milestones import late
from distill.config.rules import FOLDERS, IN_MEMORY
from distill.config.teacher_nodes import is_trained

Node = Mapping[str, Any]
ALWAYS = {
    "seed", "threads", "log_every", "save_minutes", "device", "precision", "compile", "output", "plugins",
    "sync_batchnorm", "overlap", "grad_checkpointing", "schedule.cutmix", "schedule.repeats", "schedule.layer_decay",
    "schedule.accumulate", "schedule.ema", "schedule.loss", "schedule.drop_path", "dataset.erasing",
    "schedule.name", "schedule.batch_size", "schedule.lr", "schedule.label_smoothing", "schedule.mixup",
    "schedule.last_batch", "schedule.decay", "schedule.clip_grad", "schedule.max_norm", "schedule.rule",
    "schedule.zero_head", "schedule.optimizer", "schedule.restart", "schedule.damped", "schedule.momentum_start",
    "schedule.clip_mode", "schedule.no_decay", "schedule.ema_warmup", "schedule.ema_export",
    "schedule.bce_threshold", "schedule.warmup_lr",  # each refused by check_schedule where its partners are not there
    *(f"dataset.{key}" for key in ("name", "kind", "num_classes", "in_chans", "size", "mean", "std", "resize", "pad",
                                   "flip", "holdout", "classes", "views", "labels", "views.student")),
    *(f"student.{key}" for key in ("name", "model", "args", "lr_scale", "mean", "std", "weights", "upstream",
                                   "quantize", "quantize.weights", "quantize.activations", "quantize.ends",
                                   "quantize.bucket", "quantize.everything")),
    "tracking.mode",
    *(f"evaluate.{key}" for key in ("knn", "probe", "neighbours", "images")),  # check_evaluate refuses what is idle
}  # fmt: skip
OF_ONE_TEACHER = ("name", "model", "args", "lr_scale", "mean", "std")
SERVER = ("online", "offline")
HELD = {"logits", "embedding", "classifier", "index", "labels"}  # what a cache may hold of a teacher's outputs


def check_idle(idle: Mapping[str, str]) -> None:
    """Raise ValueError for the first of some keys that do nothing."""
    for key, why in idle.items():
        raise ValueError(f"{key} does nothing here: {why}; leave {key.partition('=')[0]} away")


def idle_keys(cfg: DictConfig, keys: Iterable[str]) -> dict[str, str]:
    """Those of some keys that nothing reads in a whole configuration, each as key=value, with the reason."""
    return {_given(cfg, key): why for key in keys if _says(cfg, key) and (why := why_idle(cfg, key))}


def leaves(key: str, value: Any) -> Iterator[str]:
    """The keys that giving `key` this value sets: those of a dictionary each by itself."""
    if isinstance(value, Mapping) and value and not key.endswith((".args", "upstream", "optimizer")):
        for name, below in value.items():
            yield from leaves(f"{key}.{name}", below)
    else:
        yield key


def why_idle(cfg: DictConfig, key: str) -> str:
    """Why nothing reads a key, half a sentence; nothing where it is read."""
    group, _, name = key.partition(".")
    if key in ALWAYS or group == "hydra":
        return ""
    if group == "method":
        return _of_method(cfg, name)
    if group == "teacher" and not has_teacher(cfg):
        return f"method={plain(cfg, 'method.name')} has no teacher"
    for prefix in (key, key.rpartition(".")[0]):
        if prefix in READ_BY:
            return READ_BY[prefix](cfg)
    return ""


def _says(cfg: DictConfig, key: str) -> bool:
    """Whether a key has a value that asks for anything."""
    return OmegaConf.select(cfg, key, default=None) not in (None, [], {}, "")


def _given(cfg: DictConfig, key: str) -> str:
    text = str(plain(cfg, key))
    return f"{key}={text if len(text) < 60 else '...'}"


def _of_method(cfg: DictConfig, name: str) -> str:
    """What about.only says of a method's key: `kd` (is above 0, or given), or `form=kernel|paper`."""
    node = plain(cfg, "method")
    condition = (node.get("about") or {}).get("only", {}).get(name)
    if condition is None:
        return ""
    for one in str(condition).split(","):
        key, _, words = (part.strip() for part in one.partition("="))
        if str(node.get(key)).lower() in words.lower().split("|") if words else node.get(key):
            return ""
    key, _, words = (part.strip() for part in str(condition).partition("="))
    reads = f"method.{key}={words.replace('|', ' or ')} reads it" if words else f"it counts where method.{key} is set"
    return f"{reads}, and method.{key} is {str(node.get(key)).lower()}"


def _decays(*kinds: str) -> Callable[[DictConfig], str]:
    def why(cfg: DictConfig) -> str:
        if plain(cfg, "schedule").get("rule"):
            return "the schedule's rule has its own"
        kind = plain(cfg, "schedule").get("decay", "step")
        reading = f"schedule.decay={' and '.join(kinds)} read{'s' * (len(kinds) < 2)} it"
        return "" if kind in kinds else f"{reading}, not {kind}"

    return why


def _milestones(cfg: DictConfig) -> str:
    schedule = plain(cfg, "schedule")
    if why := _decays("step")(cfg):
        return why
    beyond = late(schedule)
    none_left = len(beyond) == len(schedule["milestones"])
    return f"training ends after {schedule['epochs']} epochs" if none_left else ""


def _epochs_of(key: str) -> Callable[[DictConfig], str]:
    """Of a rise over so many epochs, which is to end before training does."""

    def why(cfg: DictConfig) -> str:
        schedule = plain(cfg, "schedule")
        late = not schedule.get("rule") and (schedule.get(key) or 0) > schedule["epochs"]
        return _without_rule(cfg) or (f"training ends after {schedule['epochs']} epochs, before it" if late else "")

    return why


def _lr_scales(cfg: DictConfig) -> str:
    nets = {str(plain(cfg, "student").get("model")), *map(str, plain(cfg, "method").get("models") or ())}
    nets |= {str(spec.get("model")) for spec in teacher_specs(cfg)}
    return "" if nets.intersection(plain(cfg, "schedule.lr_scales") or {}) else "no net of the run has a share there"


def _inits(cfg: DictConfig) -> str:
    hashed = hashed_config(cfg)
    several = hashed.get("teacher") or []
    nets = [hashed["student"], *(several if isinstance(several, list) else [several])]
    told = any(net.get("init") or net.get("inits_of_chain") for net in nets) or hashed["method"]["inits_of_nets"]
    return "" if told else "it names no net of the run that begins anew"


def _gamma(cfg: DictConfig) -> str:
    schedule = plain(cfg, "schedule")
    if schedule.get("decay", "step") == "step" and not schedule.get("rule") and not schedule.get("milestones"):
        return "the rate falls at schedule.milestones, and there are none"
    return _decays("step", "exponential")(cfg)


def _by_epoch(cfg: DictConfig) -> str:
    warm = plain(cfg, "schedule").get("warmup_epochs") and not plain(cfg, "schedule").get("rule")
    return "" if warm else _decays("cosine", "linear")(cfg)


def _init_epochs(cfg: DictConfig) -> str:
    if interpolated(cfg, "schedule.init_epochs"):
        return ""
    return f"method={plain(cfg, 'method.name')} has no first phase of so many epochs"


def _with_rule(cfg: DictConfig) -> str:
    return "" if plain(cfg, "schedule").get("rule") else "schedule.rule=hyperrule reads it, as in schedule=bit"


def _without_rule(cfg: DictConfig) -> str:
    return "the schedule's rule has its own" if plain(cfg, "schedule").get("rule") else ""


def why_no_root(data: Node) -> str:
    """Why a data set reads no root, half a sentence; nothing where it reads one."""
    return "the digits come with scikit-learn" if (data.get("kind") or data.get("name")) == "digits" else ""


def check_root(data: Node, setting: str) -> None:
    """Raise ValueError where a data set reads no root; setting: the option that gives one, KEY=VALUE."""
    if why := why_no_root(data):
        check_idle({setting: why})


def _root(cfg: DictConfig) -> str:
    return why_no_root(plain(cfg, "dataset"))


def _of_images(cfg: DictConfig) -> str:
    """Of which training images there are, which a method that makes its own never sees, nor does its teacher read: all
    of them train that.
    """
    measured = any((plain(cfg, "evaluate") or {}).get(key) for key in ("knn", "probe"))
    data_free = OmegaConf.select(cfg, "method.about.kind", default="") == "data-free"
    return f"method={plain(cfg, 'method.name')} sees no images of the data set" if data_free and not measured else ""


def _of_folders(folder: bool) -> Callable[[DictConfig], str]:
    def why(cfg: DictConfig) -> str:
        data = plain(cfg, "dataset")
        kinds = ("a data set in memory, such as cifar100", "a data set of image files, dataset=folder")
        return "" if ((data.get("kind") or data["name"]) == "folder") is folder else f"it is for {kinds[folder]}"

    return why


def _teachers_view(cfg: DictConfig) -> str:
    return "" if has_teacher(cfg) else f"method={plain(cfg, 'method.name')} has no teacher"


def _one_teacher(cfg: DictConfig) -> str:
    named = [key for key in ("models", "chain") if plain(cfg, "teacher").get(key)]
    return f"teacher.{named[0]} names the nets, with what their own files say" if named else ""


def _teachers_rate(cfg: DictConfig) -> str:
    return _one_teacher(cfg) or _teachers_training(cfg)


def _teachers_training(cfg: DictConfig) -> str:
    specs = teacher_specs(cfg)
    return "" if any(map(is_trained, specs)) else f"teacher.weights={specs[0]['weights']} is not trained"


def _teachers_seed(cfg: DictConfig) -> str:
    teacher = plain(cfg, "teacher")
    if teacher.get("seeds"):
        return "teacher.seeds has one for each"
    given = str(teacher.get("weights", "auto"))
    return "" if given in ("auto", "none") else f"teacher.weights={given} draws nothing"


def _several_seeds(cfg: DictConfig) -> str:
    given = str(plain(cfg, "teacher").get("weights", "auto"))
    return "teacher.weights=pretrained draws nothing, and is one net" if given == "pretrained" else ""


def _cached(cfg: DictConfig) -> str:
    asked, data = str(plain(cfg, "teacher.cache")), plain(cfg, "dataset")
    if asked not in ("logits", "embedding"):
        return ""
    held = HELD - {"embedding", "classifier"} if asked == "logits" else HELD
    if beyond := reads(cfg) - held:
        return f"method={plain(cfg, 'method.name')} reads its teacher's {min(beyond)}, which such a cache does not hold"
    if any(plain(cfg, "schedule").get(key) for key in ("mixup", "cutmix")):
        return "mixed images are never the same twice"
    augmented = [key for key in ("rotate", "randaugment", "cutout", "erasing") if data.get(key)]
    if augmented or (data.get("kind") or data["name"]) == "folder":
        return f"{f'dataset.{augmented[0]}' if augmented else 'a folder'} shows an image in views without number"
    return ""


def _tracked(*modes: str) -> Callable[[DictConfig], str]:
    def why(cfg: DictConfig) -> str:
        mode = str(plain(cfg, "tracking.mode")).replace("False", "off")
        return "" if mode in modes else f"tracking={' or '.join(modes)} reads it, not {mode}"

    return why


def _graphs(cfg: DictConfig) -> str:
    given = str(plain(cfg, "cuda_graphs")).lower(), str(plain(cfg, "device"))
    return "they are a GPU's, and device=cpu" if given == ("true", "cpu") else ""


READ_BY: dict[str, Callable[[DictConfig], str]] = {
    "cuda_graphs": _graphs,
    "schedule.epochs": _without_rule,
    "schedule.warmup_epochs": _epochs_of("warmup_epochs"),
    "schedule.momentum_epochs": _epochs_of("momentum_epochs"),
    "schedule.gamma": _gamma,
    "schedule.milestones": _milestones,
    "schedule.lr_min": _decays("cosine", "linear"),
    "schedule.by_epoch": _by_epoch,
    "schedule.lr_scales": _lr_scales,
    "schedule.inits": _inits,
    "schedule.init_epochs": _init_epochs,
    "schedule.resize": _with_rule,
    "schedule.crop": _with_rule,
    "dataset.root": _root,
    "dataset.content": lambda cfg: "it is worked out from the files",
    "dataset.views.teacher": _teachers_view,
    **{f"dataset.{key}": _of_images for key in WHOLE_SET},
    **{f"dataset.{key}": _of_folders(True) for key in FOLDERS},
    **{f"dataset.{key}": _of_folders(False) for key in IN_MEMORY},
    **{f"teacher.{key}": _one_teacher for key in OF_ONE_TEACHER},
    "teacher.lr_scale": _teachers_rate,
    "teacher.seed": _teachers_seed,
    "teacher.schedule": _teachers_training,
    "teacher.dataset": _teachers_training,
    "teacher.epoch": _teachers_training,
    "teacher.cache": _cached,
    **dict.fromkeys(("tracking.project", "tracking.entity", "tracking.artifact"), _tracked(*SERVER)),
    "teacher.size": _one_teacher,
    "teacher.seeds": _several_seeds,
    # read wherever there is a teacher; teacher_nodes refuses what does not go together
    **{f"teacher.{key}": lambda cfg: "" for key in ("weights", "start", "models", "chain")},
}  # fmt: skip
