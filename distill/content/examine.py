"""A look at one image file: a digest of its content, what decoding will change, and whether it is whole."""

from __future__ import annotations

import hashlib
import io
import os
import time
import warnings

import numpy as np
from PIL import Image

from distill.content.decode import DEEP, UNREADABLE, check_numbers, limits_of, orientation
from distill.content.image_record import DIGEST, ImageRecord
from distill.files import first_line

TURNED, ALPHA, DEEP16, UNBOUNDED, INK, FRAMES, COLOUR16 = (1 << k for k in range(7))
"""What a file may be: turned by EXIF, with alpha, of one channel of 16 bits, of values without a known range, CMYK, of
several frames, of several channels of 16 bits.
"""
PNG_EXIF = (b"eXIf", b"Raw profile type", b"xmp")  # one of these is in a PNG that says how it is turned
START_OF_SCAN, END = 0xDA, b"\xff\xd9"


def examine(path: str) -> ImageRecord:
    """Look at an image file: all of it is read, its header is parsed; of JPEGs the end is looked for, not decoded."""
    seen = time.time_ns()
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would never end
        return ImageRecord(0, bytes(DIGEST), damage="it is no file")
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        return ImageRecord(0, bytes(DIGEST), damage=error.strerror or type(error).__name__)
    digest = hashlib.blake2b(content, digest_size=DIGEST).digest()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large images, odd metadata
            return ImageRecord(seen, digest, _header(content))
    except (*UNREADABLE, AttributeError) as error:
        return ImageRecord(seen, digest, damage=reason(error))


def reason(error: BaseException) -> str:
    """Why a file cannot be decoded, in a few words."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "no image of a known kind"
    words = first_line(error)
    return words if len(words) <= 100 else f"{words[:97]}..."


def _header(content: bytes) -> int:
    with Image.open(io.BytesIO(content)) as file:
        flags = _flags(file, content)
        if file.format in ("JPEG", "MPO"):
            if not _has_end(content):
                file.load()
        elif file.format == "PNG":
            with Image.open(io.BytesIO(content)) as again:
                again.verify()  # the checksums of all its parts
        else:
            file.load()
            if file.mode == "F":
                check_numbers(np.asarray(file))
    return flags


def _flags(file: Image.Image, content: bytes) -> int:
    flags = ALPHA * file.has_transparency_data | INK * (file.mode == "CMYK")
    if file.format != "PNG" or any(mark in content for mark in PNG_EXIF):  # asking a PNG decodes it
        flags |= TURNED * (orientation(file) != 1)
    if file.mode in DEEP:
        flags |= DEEP16 if limits_of(file) else UNBOUNDED
    elif any(";16" in str(tile[3]) for tile in getattr(file, "tile", ())):
        flags |= COLOUR16
    if getattr(file, "is_animated", False) and file.format != "MPO":
        flags |= FRAMES
    return flags


def _has_end(jpeg: bytes) -> bool:
    """Whether a JPEG has its end marker: walks its segments up to the first scan, in which none is by chance."""
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        if jpeg[at + 1] == START_OF_SCAN:
            return jpeg.find(END, at) > 0
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return False
