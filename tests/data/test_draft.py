"""JPEGs that are decoded smaller for training: the same crops, and as many pixels as they are shown with."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from distill.config import DataSpec
from distill.content.decode import DecodeOptions, drafted
from distill.data.folder_loading import check_settings
from distill.data.views import Images, drawn_crop

SIZE = 32


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A smooth picture of 640 x 400, lying on its side: EXIF turns it."""
    across, down = np.meshgrid(np.linspace(0, 1, 400), np.linspace(0, 1, 640))
    waves = [127 + 120 * np.sin(6 * across + phase) * np.cos(5 * down) for phase in (0, 1, 2)]
    image = Image.fromarray(np.stack(waves, axis=2).astype(np.uint8))
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path_factory.mktemp("draft") / "photo.jpg"
    image.save(path, quality=95, exif=exif)
    return str(path)


def images(photo: str, **more: object) -> Images:
    return Images([photo], np.zeros(1, dtype=np.int64), SIZE, DecodeOptions(), True, **more)  # type: ignore[arg-type]


def test_a_large_picture_is_decoded_smaller_and_shows_the_same_crop(photo: str) -> None:
    whole, draft = images(photo), images(photo, draft=True)
    asked = []
    for view in range(40):
        pixels, smaller = (each[0, view][0].numpy().astype(int) for each in (whole, draft))  # type: ignore[index]
        assert np.abs(pixels - smaller).mean() < 1.5 and pixels.std() > 5
        (left, top, right, bottom), _ = drawn_crop(640, 400, view)
        asked.append(draft._shrink(view, 640, 400))
        assert min(right - left, bottom - top) / asked[-1] >= SIZE or asked[-1] == 1
    assert set(asked) == {4, 8}


def test_the_whole_size_is_told_as_it_is_shown(photo: str) -> None:
    image, whole = drafted(photo, DecodeOptions(), lambda width, height: 4)
    assert whole == (640, 400) and image.size == (160, 100)
    image, whole = drafted(photo, DecodeOptions(exif=False), lambda width, height: 1)
    assert whole == image.size == (400, 640)


def test_evaluation_and_images_that_are_squeezed(photo: str) -> None:
    whole, draft = images(photo), images(photo, draft=True)
    assert np.array_equal(whole[0, None][0], draft[0, None][0])  # evaluation decodes in full
    squeezed = images(photo, draft=True, resize=50)
    assert squeezed._shrink(3, 640, 400) == 8
    difference = squeezed[0, 3][0].numpy().astype(int) - images(photo, resize=50)[0, 3][0].numpy()
    assert np.abs(difference).mean() < 1.5


@pytest.mark.parametrize("beside", [{"interpolation": "bicubic"}, {"views": {"teacher": "depth"}}])
def test_what_cannot_be_known_before_decoding_is_refused(beside: dict[str, object]) -> None:
    node = {"name": "folder", "size": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "draft": True}
    check_settings(DataSpec.of(node))
    with pytest.raises(ValueError, match=r"dataset\.draft=true needs to know the crop"):
        check_settings(DataSpec.of(node | beside))
