"""From an image file of any kind to 8-bit RGB or grey: deep pixels scaled, turned by EXIF, alpha laid on a colour."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageCms

ORIENTATION = 274  # EXIF's tag; values from 2 on are turned or mirrored
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BACK = {**TURNS, 6: TURNS[8], 8: TURNS[6]}
_BITS, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # TIFF's tags, and a value of the second
UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, MemoryError,
              struct.error, zlib.error, Image.DecompressionBombError)  # fmt: skip
"""What Pillow raises for damaged files."""


@dataclass(frozen=True)
class DecodeOptions:
    """How files become pixels. mode: "RGB" or "L"; exif: whether images are turned as EXIF says; background: the RGB
    colour behind transparent pixels; value_range: the values that are black and white in images that are not of 8 bits,
    None where the file's own number of bits says so.
    """

    mode: str = "RGB"
    exif: bool = True
    background: tuple[int, int, int] = (255, 255, 255)
    value_range: tuple[float, float] | None = None


def decode_options(
    *, background: Any = (255, 255, 255), value_range: Any = None, exif: Any = True, in_chans: int = 3
) -> DecodeOptions:
    """What a data set's keys ask for. Raises ValueError for a background or a value_range that is none."""
    values = value_range
    if not _numbers(background, 3) or any(int(v) != v or not 0 <= v <= 255 for v in background):
        raise ValueError(f"dataset.background={background}: give a colour such as [255,255,255], which is white")
    if values is not None and (not _numbers(values, 2) or not values[0] < values[1]):
        raise ValueError(f"dataset.value_range={values}: give the values of black and white, such as [0,4095], or null")
    if not isinstance(exif, bool):
        raise ValueError(f"dataset.exif={exif}: give true or false")
    mode = "L" if in_chans == 1 else "RGB"
    red, green, blue = map(int, background)
    return DecodeOptions(mode, exif, (red, green, blue), None if values is None else (values[0], values[1]))


def _numbers(value: Any, count: int) -> bool:
    """Whether this is a list of so many finite numbers."""
    fine = isinstance(value, (list, tuple)) and len(value) == count
    return fine and all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e38 for v in value)


def decoded(path: str, reading: DecodeOptions) -> Image.Image:
    """The first picture of an image file, in reading.mode. Raises what UNREADABLE lists."""
    with Image.open(path) as file:
        return pixels(file, reading)


def drafted(
    path: str, reading: DecodeOptions, shrink: Callable[[int, int], int]
) -> tuple[Image.Image, tuple[int, int]]:
    """The first picture as `decoded` gives it, a JPEG at 1/2, 1/4 or 1/8 where `shrink(width, height)` is 2, 4 or 8;
    and the width and height of the whole.

    The decoder makes the smaller picture of the file's own frequencies: it takes a fraction of the time, and is another
    average of the same pixels than a filter takes.
    """
    with Image.open(path) as file:
        upright = not (reading.exif and orientation(file) >= 5)
        whole = (file.width, file.height) if upright else (file.height, file.width)
        if file.format == "JPEG" and (by := shrink(*whole)) > 1:
            file.draft(file.mode, (file.width // by, file.height // by))
        return pixels(file, reading), whole


def pixels(file: Image.Image, reading: DecodeOptions) -> Image.Image:
    """The picture of an opened file in reading.mode. Raises ValueError for values whose range nobody has told."""
    limits = None if file.mode not in DEEP else reading.value_range or limits_of(file)
    inverted = file.mode in DEEP and _tag(file, PHOTOMETRIC) == WHITE_IS_ZERO
    image = exif_transposed(file, reading.exif)
    if image.mode in DEEP:
        image = eight_bits(image, limits, inverted)
    elif image.mode == "CMYK":
        image = from_cmyk(image)
    if image.has_transparency_data:
        image = on_colour(image, reading.background)
    if image.mode == reading.mode:  # convert would copy it
        return image
    return image.convert("RGB").convert(reading.mode) if image.mode == "LAB" else image.convert(reading.mode)


def orientation(file: Image.Image) -> int:
    """How EXIF says that a picture is turned: 1 for not at all, or where it cannot be read."""
    try:
        found = int(file.getexif().get(ORIENTATION, 1))
    except (*UNREADABLE, AttributeError, ZeroDivisionError):
        return 1
    return found if found in TURNS else 1


def exif_transposed(file: Image.Image, wanted: bool) -> Image.Image:
    """The picture turned as EXIF says where that is wanted, else as it is stored: TIFFs are turned when loaded."""
    exif_turn = orientation(file)
    file.load()
    left = orientation(file) if exif_turn != 1 else 1
    if wanted:
        return file if left == 1 else file.transpose(TURNS[left])
    return file.transpose(BACK[exif_turn]) if exif_turn != left else file


DEEP = {"I;16", "I;16B", "I;16L", "I;16N", "I", "F"}  # Pillow's modes of more than 8 bits


def limits_of(file: Image.Image) -> tuple[float, float] | None:
    """The values of black and white in a file of one deep channel, where its format tells: 16 bits, or 12 of a TIFF."""
    bits = (_tag(file, _BITS) or (16,))[0] if file.mode.startswith("I;16") else 16
    known = file.mode.startswith("I;16") or (file.mode == "I" and file.format in ("PNG", "PPM"))
    return (0, 2**bits - 1) if known else None


def _tag(file: Image.Image, tag: int) -> Any:
    return getattr(file, "tag_v2", {}).get(tag)


def eight_bits(image: Image.Image, limits: tuple[float, float] | None, inverted: bool = False) -> Image.Image:
    """A deep picture as 8-bit grey, linearly, what lies outside the limits clipped; with alpha where a value is void.

    inverted: 0 is white. Raises ValueError where the limits are not known, or a value is no number.
    """
    if limits is None:
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise ValueError(f"its {kind} values have no known range: give that of black and white, dataset.value_range")
    values = np.asarray(image).astype(np.float64)
    check_numbers(values)
    share = ((values - limits[0]) / (limits[1] - limits[0])).clip(0, 1)
    grey = Image.fromarray(np.rint(255 * (1 - share if inverted else share)).astype(np.uint8))
    void = image.info.get("transparency")
    if isinstance(void, int):
        grey.putalpha(Image.fromarray(np.where(values == void, 0, 255).astype(np.uint8)))
    return grey


def check_numbers(values: np.ndarray) -> None:
    """Raise ValueError for NaN, which is neither black nor white."""
    if np.isnan(values).any():
        raise ValueError("some of its values are no numbers (NaN)")


def from_cmyk(image: Image.Image) -> Image.Image:
    """A CMYK picture as RGB: by its colour profile, or by the plain formula where it brings none that can be used."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            made = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
            return made or image.convert("RGB")
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return image.convert("RGB")


def on_colour(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """A picture with transparent parts laid on a colour, as RGB."""
    void = image.info.get("transparency")
    if isinstance(void, tuple) and max(void) > 255:  # of a 16-bit PNG, of which Pillow keeps the upper bytes
        image = image.copy()
        image.info["transparency"] = tuple(v >> 8 for v in void)
    base = Image.new("RGBA", image.size, (*colour, 255))
    base.alpha_composite(image.convert("RGBA"))
    return base.convert("RGB")
