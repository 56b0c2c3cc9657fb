"""What the value of a key may be: a kind and a range for every key but a method's own, without torch.

A method's keys are of the kind of their defaults in conf/method/<name>.yaml, unless `about.values` there names one of
KINDS; see `distill.config.values`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any

Rule = tuple[Callable[[Any], bool], str]
_MOST, _LARGEST = 10**9, 1e12  # of whole numbers, of others: what is above stands for no count and no rate


def is_number(value: Any) -> bool:
    """Whether this is a finite number that a computation can be done with; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _number(fits: Callable[[float], bool], words: str) -> Rule:
    return (lambda value: is_number(value) and fits(value), words)


def number_between(low: float, high: float, above: bool = False) -> Rule:
    """A number from low to high; above: low itself is none of them."""
    words = f"above {low:g}, at" if above else f"{', not negative' if low == 0 else f' of at least {low:g}'} and at"
    fits: Callable[[float], bool] = lambda value: (low < value if above else low <= value) and value <= high  # noqa: E731
    return _number(fits, f"must be a number{' ' if above else ''}{words} most {high:g}")


def whole(low: int, high: int = _MOST) -> Rule:
    """A whole number from low to high, written as one: 8.0 is none."""
    words = f"must be a whole number, at least {low} and at most {high}"
    return (lambda value: isinstance(value, int) and is_number(value) and low <= value <= high, words)


def one_of(*names: str) -> Rule:
    """One of some words, as they are written there, or of the flags that are spelled like them."""
    return (lambda value: (str(value).lower() if isinstance(value, bool) else value) in names,
            f"must be one of {', '.join(names)}")  # fmt: skip


def list_of(item: Rule, example: str) -> Rule:
    return (lambda value: isinstance(value, (list, tuple)) and all(item[0](v) for v in value), f"must be a list, such "
            f"as {example}, each of which {item[1]}")  # fmt: skip


def or_null(rule: Rule) -> Rule:
    """The same, or no value."""
    return (lambda value: value is None or rule[0](value), f"{rule[1]}, or null")


def either(one: Rule, other: Rule) -> Rule:
    return (lambda value: one[0](value) or other[0](value), f"{one[1]}, or {other[1].removeprefix('must be ')}")


_NUMBER = _number(lambda value: True, f"must be a number, at most {_LARGEST:g} either way")
NOT_NEGATIVE = number_between(0, _LARGEST)
POSITIVE = _number(lambda value: value > 0, f"must be a number above 0, at most {_LARGEST:g}")
UNIT_SHARE = _number(lambda value: 0 <= value <= 1, "must be in [0, 1]")
BELOW_ONE = _number(lambda value: 0 <= value < 1, "must be in [0, 1)")
FRACTION = _number(lambda value: 0 < value <= 1, "is a fraction: it must be above 0 and at most 1")
WHOLE_NUMBER, COUNT, BITS, INDEX = whole(0), whole(1), whole(2, 8), whole(-1000, 1000)
FLAG: Rule = (lambda value: isinstance(value, bool), "must be true or false")
TEXT: Rule = (lambda value: isinstance(value, str) and 0 < len(value.strip()) <= 1000, "must be a text")
PLACE: Rule = (lambda value: TEXT[0](value) and "://" not in value, "must be a path (./2024 of a number), no address")
WORD = either(TEXT, WHOLE_NUMBER)  # 1 is a name too
NAME: Rule = (
    lambda value: isinstance(value, str) and re.fullmatch(r"\w[\w.+,: @-]{0,99}", value) is not None,
    "must be a name: letters, digits and . _ + -, beginning with a letter or a digit",
)
NET_NAME: Rule = (
    lambda value: isinstance(value, str)
    and re.fullmatch(r"\w[\w.+,: @/-]{0,199}", value) is not None,
    "must be a net's name: letters, digits and . _ + - : /, beginning with a letter or a digit",
)
START_FILE = (TEXT[0], "must be none, pretrained or the path of a checkpoint")
NODE: Rule = (lambda value: isinstance(value, dict), "must be a dictionary {key: value}")
ANY_LIST: Rule = (lambda value: isinstance(value, (list, tuple)), "must be a list [a, b]")
_NUMBERS, POSITIVES = list_of(_NUMBER, "[0.5,0.5,0.5]"), list_of(POSITIVE, "[0.5,0.5,0.5]")
MEAN, STD = (list_of(each, "[0.5,0.5,0.5]") for each in (UNIT_SHARE, number_between(0, 1, above=True)))  # of 0 to 1
_NAMES = list_of(WORD, "[0,cat]")
_SHARES_OF_NETS: Rule = (
    lambda value: isinstance(value, dict) and all(POSITIVE[0](share) for share in value.values()),
    "must be shares of the rate by the nets' models, such as {cifar_MobileNetV2: 0.2}",
)
EPOCHS = list_of(POSITIVE, "[150,180]")
SEED = whole(0, 2**32 - 1)
VIEW: Rule = (
    lambda value: re.fullmatch(r"gray|L|ab|depth|low-\d{1,5}", str(value)) is not None,
    "must be gray, L, ab, low-<pixels> or depth",
)
DEVICE: Rule = (
    lambda value: re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", str(value)) is not None,
    "must be one of auto, cpu, cuda, cuda:0, cuda:1, ...",
)
AUTO_AUGMENT: Rule = (
    lambda value: re.fullmatch(
        r"rand(-(m\d{1,2}|n\d{1,2}|p(0?\.\d+|1)|mstd\d{1,3}(\.\d+)?|mmax\d{1,2}|inc[01]|tweights))*"
        r"|(original|originalr|v0|v0r|3a)(-mstd\d{1,3}(\.\d+)?)?",
        str(value),
    )
    is not None,
    "must be timm's word for RandAugment or AutoAugment, such as rand-m9-mstd0.5-inc1, original, v0 or 3a",
)
COLOUR: Rule = (
    lambda value: isinstance(value, (list, tuple)) and len(value) == 3 and all(whole(0, 255)[0](v) for v in value),
    "must be a colour such as [255,255,255], which is white",
)
RANGE: Rule = (
    lambda value: isinstance(value, (list, tuple))
    and len(value) == 2
    and all(map(is_number, value))
    and value[0] < value[1],
    "must be the values of black and white, such as [0,4095]",
)
KINDS = {  # what about.values of a method's YAML may name, each also as `<kind> or null`
    "number": number_between(-1e6, 1e6),
    "not negative": number_between(0, 1e6),
    "positive": number_between(0, 1e6, above=True),
    "share": UNIT_SHARE,
    "fraction": FRACTION,
    "whole": whole(0, 10**7),
    "count": whole(1, 10**7),
    "index": INDEX,
    "bits": BITS,
    "flag": FLAG,
    "text": TEXT,
    "nets": list_of(NET_NAME, "[resnet20,resnet8]"),
    "numbers": list_of(number_between(-1e6, 1e6), "[0.5,-0.5]"),
    "shares": list_of(number_between(0, 1e6), "[0.5,1]"),
    "counts": list_of(whole(1, 10**6), "[1,2]"),
}
KINDS |= {f"{name} or null": or_null(rule) for name, rule in list(KINDS.items())}

AT_THE_TOP: dict[str, Rule] = {
    "seed": SEED,
    "threads": or_null(either(whole(1, 4096), one_of("auto"))),
    "log_every": COUNT,
    "save_minutes": NOT_NEGATIVE,
    "device": DEVICE,
    "precision": one_of("auto", "fp32", "bf16", "fp16"),
    "compile": one_of("auto", "true", "false"),
    "cuda_graphs": one_of("auto", "true", "false"),
    "overlap": one_of("auto", "false"),
    "sync_batchnorm": one_of("auto", "true", "false"),
    "grad_checkpointing": or_null(FLAG),
    "output": PLACE,
    "plugins": list_of(TEXT, "[my_method]"),
}
SCHEDULE: dict[str, Rule] = {
    "name": NAME,
    "epochs": whole(1, 10**6),
    "batch_size": whole(1, 10**7),
    "lr": POSITIVE,
    "gamma": number_between(0, 1e6, above=True),
    "lr_scales": or_null(_SHARES_OF_NETS),
    "milestones": EPOCHS,
    "warmup_epochs": number_between(0, 1e6),
    "warmup_lr": or_null(NOT_NEGATIVE),
    "by_epoch": or_null((lambda value: isinstance(value, bool) or value == "late", "must be true, late or false")),
    "init_epochs": whole(0, 10**6),
    "mixup": or_null(_number(lambda value: 0 <= value <= 1000, "is an alpha: it must be in [0, 1000]")),
    "cutmix": or_null(_number(lambda value: 0 <= value <= 1000, "is an alpha: it must be in [0, 1000]")),
    "repeats": or_null(whole(1, 1000)),
    "label_smoothing": or_null(BELOW_ONE),
    "last_batch": or_null(one_of("auto", "keep", "drop", "merge")),
    "decay": one_of("step", "exponential", "cosine", "linear", "constant"),
    "lr_min": or_null(NOT_NEGATIVE),
    "clip_grad": or_null(POSITIVE),
    "clip_mode": or_null(one_of("norm", "value", "agc")),
    "no_decay": or_null((lambda value: isinstance(value, bool) or value == "norms", "must be true, norms or false")),
    "layer_decay": or_null(FRACTION),
    "accumulate": or_null(COUNT),
    "ema": or_null(_number(lambda value: 0 < value < 1, "is a decay: it must be above 0 and below 1")),
    "ema_warmup": or_null(FLAG),
    "ema_export": or_null(FLAG),
    "loss": or_null(one_of("ce", "bce")),
    "bce_threshold": or_null(BELOW_ONE),
    "drop_path": or_null(BELOW_ONE),
    "momentum_start": or_null(BELOW_ONE),
    "momentum_epochs": or_null(POSITIVE),
    "damped": or_null(FLAG),
    "restart": or_null(FLAG),
    "max_norm": or_null(POSITIVE),
    "rule": or_null(one_of("hyperrule")),
    **dict.fromkeys(("resize", "crop"), or_null(whole(1, 10**5))),
    "inits": or_null(NODE),
    "zero_head": or_null(FLAG),
    "optimizer": NODE,
}
DATASET: dict[str, Rule] = {
    "name": NAME,
    "kind": or_null(NAME),
    "root": PLACE,
    "content": or_null(TEXT),
    "num_classes": or_null(whole(2)),
    "in_chans": whole(1, 1024),
    "size": whole(1, 10**5),
    "mean": MEAN,
    "std": STD,
    "resize": or_null(either(FLAG, whole(1, 10**5))),
    "pad": whole(0, 10**5),
    "pad_mode": or_null(one_of("zeros", "reflect")),
    "flip": FLAG,
    "rotate": or_null(_number(lambda value: 0 <= value <= 180, "are degrees: it must be in [0, 180]")),
    "randaugment": or_null(whole(1, 1000)),
    "cutout": or_null(whole(1, 10**5)),
    "erasing": or_null(UNIT_SHARE),
    "holdout": _number(lambda value: 0 <= value < 1, "is a fraction of the images: it must be in [0, 1)"),
    "shots": or_null(COUNT),
    "labels": or_null(FLAG),
    "classes": or_null(_NAMES),
    "omit": _NAMES,
    "fraction": FRACTION,
    "views": NODE,
    "views.teacher": or_null(VIEW),
    "views.student": or_null(VIEW),
}
FOLDERS: dict[str, Rule] = {  # keys of dataset that only folders of images have
    "workers": either(whole(0, 4096), one_of("auto")),
    "damaged": one_of("refuse", "skip"),
    "exif": FLAG,
    "background": COLOUR,
    "value_range": or_null(RANGE),
    "auto_augment": or_null(AUTO_AUGMENT),
    "color_jitter": or_null(NOT_NEGATIVE),
    "draft": or_null(FLAG),
    "interpolation": or_null(one_of("bilinear", "bicubic", "random")),
}
IN_MEMORY = ("pad_mode", "rotate", "randaugment", "cutout")  # keys of dataset that only data sets in memory honour
NET: dict[str, Rule] = {
    "name": NET_NAME,
    "model": or_null(TEXT),
    "args": NODE,
    "lr_scale": number_between(0, 1e6, above=True),
    "mean": or_null(_NUMBERS),
    "std": or_null(POSITIVES),
    "weights": or_null(START_FILE),
}
_STUDENT: dict[str, Rule] = NET | {
    "upstream": or_null(NODE),
    "quantize": or_null(NODE),
    "quantize.weights": BITS,
    "quantize.activations": or_null(BITS),
    "quantize.ends": or_null(BITS),
    "quantize.bucket": or_null(COUNT),
    "quantize.everything": FLAG,
}
_TEACHER: dict[str, Rule] = NET | {
    "weights": (TEXT[0], "must be auto, pretrained, none or the path of a checkpoint"),
    "start": or_null(START_FILE),
    "epoch": or_null(one_of("last", "best")),
    "size": or_null(whole(1, 10**5)),
    "seed": SEED,
    "models": or_null(ANY_LIST),
    "seeds": or_null(list_of(SEED, "[0,1]")),
    "chain": or_null(ANY_LIST),
    "schedule": or_null(TEXT),
    "dataset": or_null(NODE),
    "cache": or_null(one_of("auto", "off", "false", "logits", "embedding")),
    **{f"dataset.{key}": or_null(rule) for key, rule in (DATASET | FOLDERS).items()
       if "." not in key and key != "holdout"},  # fmt: skip
}
_TRACKING: dict[str, Rule] = {
    "mode": one_of("online", "offline", "tensorboard", "off", "false"),
    "project": (lambda value: NAME[0](value) and ":" not in value, f"{NAME[1]}; W&B takes no : in it"),
    "entity": or_null(NAME),
    "artifact": FLAG,
}
_EVALUATE: dict[str, Rule] = {
    "knn": or_null(FLAG),
    "probe": or_null(FLAG),
    "neighbours": or_null(COUNT),
    "images": or_null(whole(2)),
}
RULES_OF_GROUPS = {"schedule": SCHEDULE, "dataset": DATASET | FOLDERS, "student": _STUDENT, "teacher": _TEACHER,
          "tracking": _TRACKING, "evaluate": _EVALUATE}  # fmt: skip
RULES: dict[str, Rule] = AT_THE_TOP | {f"{group}.{key}": rule for group, own in RULES_OF_GROUPS.items()
                                       for key, rule in own.items()}  # fmt: skip


def check_rule(key: str, value: Any, rule: Rule) -> None:
    """Raise ValueError for a value of `key` that its rule does not allow."""
    valid, words = rule
    fine = False
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        fine = valid(value)
    if not fine:
        raise ValueError(f"{key}={_shown(value)}: {key} {words}")


def _shown(value: Any) -> str:
    """A value as it was typed, no more of it than helps."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
