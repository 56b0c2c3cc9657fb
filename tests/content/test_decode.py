"""Image files of every kind: what their pixels become, what is said of it, and what is refused."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from distill.content import index as index_module
from distill.content.decode import DecodeOptions, decode_options, decoded
from distill.content.examine import examine
from distill.content.index import indexed
from distill.content.listing import listed
from distill.data import load_data
from tests.data.test_data import folder_config, write_folder

RAMP = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
GREY, COLOUR = DecodeOptions("L"), DecodeOptions()


def saved(path: Path, image: Image.Image, **options) -> str:
    image.save(path, **options)
    return str(path)


def seen(path: str, reading: DecodeOptions = COLOUR) -> np.ndarray:
    return np.asarray(decoded(path, reading))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bit_grey_is_scaled(tmp_path, name):
    expected = np.rint(RAMP / 257)
    assert np.array_equal(seen(saved(tmp_path / name, Image.fromarray(RAMP)), GREY), expected)


def test_16_bits_of_a_stated_range(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(RAMP >> 4))
    assert np.array_equal(seen(path, DecodeOptions("L", value_range=(0, 4095))), np.rint((RAMP >> 4) / 4095 * 255))


def test_16_bit_colour_keeps_its_upper_bytes(tmp_path):
    rows = b"".join(b"\0" + b"".join(bytes([v >> 8, v & 255]) * 3 for v in row.tolist()) for row in RAMP)
    path = tmp_path / "a.png"
    path.write_bytes(png(8, 8, 16, 2, rows))
    assert np.array_equal(seen(str(path)), np.repeat((RAMP >> 8)[..., None], 3, axis=2))


def png(width: int, height: int, depth: int, kind: int, rows: bytes) -> bytes:
    """A PNG of raw rows, as no writer at hand makes it."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_tiff_whose_zero_is_white(tmp_path):
    path = saved(tmp_path / "a.tif", Image.fromarray(RAMP), tiffinfo={262: 0})
    assert np.array_equal(seen(path, GREY), 255 - np.rint(RAMP / 257))


def test_floating_point_needs_a_range(tmp_path):
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    path = saved(tmp_path / "a.tif", Image.fromarray(values))
    with pytest.raises(ValueError, match=r"dataset\.value_range"):
        seen(path)
    assert np.array_equal(seen(path, DecodeOptions("L", value_range=(0, 1))), np.rint(255 * values))
    values[0, 0] = np.nan
    Image.fromarray(values).save(path)
    assert "NaN" in examine(str(path)).damage
    with pytest.raises(ValueError, match="NaN"):
        seen(path, DecodeOptions("L", value_range=(0, 1)))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_exif_orientation(tmp_path, name, turn):
    image = Image.fromarray(np.kron([[0, 80, 160], [240, 200, 40]], np.ones((16, 16))).astype(np.uint8))
    exif = Image.Exif()
    exif[274] = turn
    path = saved(tmp_path / name, image.convert("RGB"), exif=exif)
    upright = np.rot90(np.asarray(image), {1: 0, 3: 2, 6: -1, 8: 1}[turn])
    for reading, expected in ((GREY, upright), (DecodeOptions("L", exif=False), np.asarray(image))):
        found = seen(path, reading)
        assert found.shape == expected.shape and np.abs(found.astype(int) - expected).mean() < 4


def test_alpha_lies_on_the_stated_colour(tmp_path):
    half = np.full((4, 4, 4), (200, 100, 0, 0), np.uint8)
    half[:2, :, 3] = 255
    path = saved(tmp_path / "a.png", Image.fromarray(half))
    found = seen(path, DecodeOptions(background=(0, 0, 255)))
    assert found[0, 0].tolist() == [200, 100, 0] and found[3, 3].tolist() == [0, 0, 255]
    assert seen(path)[3, 3].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["LA", "P", "L", "1"])
def test_other_kinds_of_transparency(tmp_path, mode):
    grey = Image.fromarray(np.array([[0, 255]], np.uint8).repeat(2, axis=0))
    if mode == "LA":
        grey.putalpha(Image.fromarray(np.array([[0, 255]], np.uint8).repeat(2, axis=0)))
        path = saved(tmp_path / "a.png", grey)
    else:
        image = grey.convert(mode)
        path = saved(tmp_path / "a.png", image, transparency=image.getpixel((0, 0)))
    assert seen(path, DecodeOptions(background=(9, 9, 9)))[0].tolist() == [[9, 9, 9], [255, 255, 255]]


def test_a_palette_and_one_bit(tmp_path):
    bits = Image.fromarray(np.array([[0, 255, 255]], np.uint8)).convert("1")
    assert seen(saved(tmp_path / "a.png", bits), GREY).tolist() == [[0, 255, 255]]
    colours = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)).convert("P", palette=Image.ADAPTIVE)
    assert seen(saved(tmp_path / "b.png", colours)).tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_an_animated_gif_gives_its_first_picture(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert seen(path)[0, 0].tolist() == [255, 0, 0]


def test_cmyk_without_and_with_a_profile(tmp_path):
    ink = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    plain = seen(saved(tmp_path / "a.jpg", ink, quality=100))[0, 0]
    assert np.abs(plain.astype(int) - (0, 255, 255)).max() <= 2
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()  # of another space: cannot be used
    assert np.array_equal(seen(saved(tmp_path / "b.jpg", ink, quality=100, icc_profile=profile))[0, 0], plain)


@pytest.mark.parametrize(("key", "value"), [
    ("background", [1, 2]), ("background", [0, 0, 256]), ("background", "white"), ("exif", 1),
    ("value_range", [1]), ("value_range", [5, 5]), ("value_range", [0, float("nan")]), ("value_range", 3),
])  # fmt: skip
def test_keys_that_cannot_be(key, value):
    with pytest.raises(ValueError, match=f"dataset.{key}"):
        decode_options(**{key: value})


# ---- what is said, and what is refused, before anything is decoded ----


def test_each_conversion_is_told_once(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write_folder(tmp_path)
    cat = tmp_path / "train" / "cat"
    for k in range(2):
        Image.fromarray(RAMP.repeat(4, 0).repeat(4, 1)).save(cat / f"deep{k}.png")
    Image.new("RGBA", (20, 20)).save(cat / "clear.png")
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (20, 30)).save(cat / "turned.jpg", exif=exif)
    Image.new("CMYK", (20, 20)).save(cat / "ink.jpg")
    (cat / "._0.jpg").write_bytes(b"AppleDouble")
    (cat / "notes.txt").write_text("x")
    data = load_data(folder_config(tmp_path))
    text = caplog.text
    for words in ("2 of 29 images are of 16 bits", "1 of 29 images have transparent parts", "1 of 29 images are turned",
                  "1 of 29 images are CMYK", "2 files or folders are no images and are left out"):  # fmt: skip
        assert text.count(words) == 1, words
    assert len(data.train) == 17 and len(list(data.source(8, seed=1).epoch(1))) == 3


def test_what_notebooks_and_archivers_leave_is_no_class_and_no_image_of_one(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write_folder(tmp_path)
    for place in (".ipynb_checkpoints", "__MACOSX", "cat/.ipynb_checkpoints"):
        (tmp_path / "train" / place).mkdir()
        (tmp_path / "train" / place / "0.png").write_bytes((tmp_path / "train/cat/0.png").read_bytes())
    data = load_data(folder_config(tmp_path))
    assert len(data.train) == 12 and data.info.num_classes == 3
    assert "3 files or folders are no images and are left out (2 hidden, 1 __MACOSX)" in caplog.text


def test_training_images_of_two_classes_and_among_the_evaluated_are_told(tmp_path, caplog):
    write_folder(tmp_path)
    (tmp_path / "train" / "dog" / "again").symlink_to("../cat")
    load_data(folder_config(tmp_path, classes=["dog", "cat"]))
    assert "4 training images are in two classes, such as " in caplog.text
    (tmp_path / "train" / "dog" / "again").unlink()
    caplog.clear()
    (tmp_path / "val" / "cat" / "9.png").write_bytes((tmp_path / "train" / "cat" / "0.png").read_bytes())
    load_data(folder_config(tmp_path))
    assert "1 of the 13 images that are evaluated are training images too" in caplog.text
    assert "in two classes" not in caplog.text


def test_a_single_class_is_refused(tmp_path):
    write_folder(tmp_path, classes=("cat",))
    with pytest.raises(ValueError, match="one class, cat"):
        load_data(folder_config(tmp_path))


@pytest.mark.parametrize("name", ["1.png", "1.jpg", "1.gif", "1.tif"])
def test_damaged_val_images_are_found_before_training(tmp_path, name):
    write_folder(tmp_path)
    bad = tmp_path / "val" / "dog" / name
    Image.effect_noise((40, 40), 50).save(bad)
    bad.write_bytes(bad.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be decoded") as caught:
        load_data(folder_config(tmp_path))
    assert str(bad) in str(caught.value) and "dataset.damaged=skip" in str(caught.value)
    assert len(load_data(folder_config(tmp_path, damaged="skip")).test) == 12 - (name == "1.png")


def test_a_value_range_that_nothing_needs_is_refused(tmp_path):
    write_folder(tmp_path)
    with pytest.raises(ValueError, match="more than 8 bits"):
        load_data(folder_config(tmp_path, value_range=[0, 1]))


# ---- the index ----


def test_a_second_start_looks_at_what_changed_alone(tmp_path, monkeypatch):
    write_folder(tmp_path, parts=("train",))
    long_ago = tmp_path / "train" / "cat"
    monkeypatch.setattr(index_module, "RACY", 0)
    first = indexed(tmp_path / "train")
    looked: list[str] = []
    monkeypatch.setattr(index_module, "examine_index", lambda path: looked.append(path) or examine(path))
    assert indexed(tmp_path / "train").digest() == first.digest() and looked == []
    changed = long_ago / "1.png"
    old = changed.stat()
    content = bytearray(changed.read_bytes())
    content[-20] ^= 1
    changed.write_bytes(content)  # as long as before, and with the old time of change
    os.utime(changed, ns=(old.st_atime_ns, old.st_mtime_ns))
    (long_ago / "7.png").write_bytes((long_ago / "2.png").read_bytes())
    second = indexed(tmp_path / "train")
    assert sorted(looked) == [str(changed), str(long_ago / "7.png")] and second.digest() != first.digest()
    assert list(second.damage.values()) and list(indexed(tmp_path / "train").damage.items()) == [*second.damage.items()]


def test_the_digest_is_of_names_and_contents_not_of_places(tmp_path):
    one, two = (write_folder(tmp_path / name, parts=("train",)) / "train" for name in ("a", "b"))
    assert indexed(one).digest() == indexed(two).digest()
    (two / "cat" / "0.png").rename(two / "cat" / "5.png")
    assert indexed(one).digest() != indexed(two).digest()


@pytest.mark.parametrize("read", [True, False])
def test_what_was_damaged_is_looked_at_again(tmp_path, monkeypatch, read):
    """A disk that failed for a moment, or a Pillow that could not decode a kind, leaves no damage behind."""
    folder = write_folder(tmp_path, parts=("train",)) / "train"
    monkeypatch.setattr(index_module, "RACY", 0)  # so that what was read counts as settled
    why = "no image of a known kind" if read else "Input/output error"
    seen = 2**62 if read else 0
    with monkeypatch.context() as failing:
        failing.setattr(index_module, "examine_index", lambda path: examine(path)._replace(damage=why, seen=seen))
        assert set(indexed(folder).damage.values()) == {why}
    assert indexed(folder).damage == {} and len(indexed(folder).whole()) == 12


def test_a_link_to_a_folder_around_it_adds_no_image(tmp_path):
    write_folder(tmp_path)
    plain = listed(tmp_path / "train").names
    for name, target in (("itself", "."), ("all", ".."), ("root", "../..")):
        (tmp_path / "train" / "cat" / name).symlink_to(target)
    assert listed(tmp_path / "train").names == plain


def test_a_damaged_index_is_made_anew(tmp_path):
    write_folder(tmp_path, parts=("train",))
    digest = indexed(tmp_path / "train").digest()
    place = index_module.index_file(tmp_path / "train")
    place.write_bytes(place.read_bytes()[:-50])
    assert indexed(tmp_path / "train").digest() == digest


def test_a_look_reads_the_whole_file_and_survives_any_content(tmp_path):
    path = tmp_path / "a.png"
    for content in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", io.BytesIO(b"GIF89a").getvalue()):
        path.write_bytes(content)
        assert examine(str(path)).damage
    assert examine(str(tmp_path / "none.png")).damage == "No such file or directory"


def test_a_pipe_among_the_images_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert examine(str(tmp_path / "a.png")).damage == "it is no file"
