import numpy as np
import pytest
import torch
from PIL import Image

from clipself_d2.visualization.drawing import colours
from clipself_d2.visualization.segments import draw_segments

FIRST, SECOND = colours(2)
SEGMENTS = [{"id": 1, "category_id": 4}, {"id": 2, "category_id": 0}, {"id": 3, "category_id": 4}]
NAMES = ["sky", "a", "b", "c", "cat"]


@pytest.fixture
def ids():
    ids = torch.zeros(480, 640, dtype=torch.int32)
    ids[:, :200], ids[:100, 200:], ids[200:300, 400:500] = 1, 2, 3
    return ids


def test_pixels_have_the_colour_of_their_class(ids):
    image = Image.new("RGB", (640, 480), (0, 200, 0))
    picture = np.asarray(draw_segments(image, ids, SEGMENTS, NAMES, opacity=0.5)).astype(int)
    cat, sky = ((np.array(colour) + [0, 200, 0]) / 2 for colour in (FIRST, SECOND))  # the largest class comes first
    assert np.abs(picture[300, 100] - cat).max() <= 1
    assert np.abs(picture[250, 450] - cat).max() <= 1  # another segment of the class
    assert np.abs(picture[50, 400] - sky).max() <= 1
    assert picture[400, 300].tolist() == [0, 200, 0]  # no segment
    assert picture[300, 200].tolist() == [255, 255, 255]  # an outline
    assert picture.shape[0] > 480


def test_the_legend_names_what_is_there(ids):
    def legend(*args, **kwargs):
        return np.asarray(draw_segments(Image.new("RGB", (640, 480)), *args, **kwargs))[480:]

    shown = legend(ids, SEGMENTS, NAMES)
    for colour in (FIRST, SECOND):
        assert (shown == colour).all(-1).sum() > 50
    first = [int(np.argmax((shown == colour).all(-1).any(0))) for colour in (FIRST, SECOND)]
    assert first[0] < first[1]  # the largest class comes first
    without = legend(torch.full_like(ids, 2), SEGMENTS[1:2], NAMES)
    assert not (without == SECOND).all(-1).any()
    grey = [int((part == 235).all(-1).sum()) for part in (shown, without)]
    assert grey[0] > 100 > grey[1]  # only the first has pixels without a name


def test_a_legend_of_many_classes_takes_several_rows():
    count = 40
    ids = (torch.arange(480 * 640) % count + 1).view(480, 640)
    segments = [{"id": i + 1, "category_id": i} for i in range(count)]
    names = [f"class number {i}" for i in range(count)]
    one = draw_segments(Image.new("RGB", (640, 480)), ids.clamp(max=1), segments[:1], names)
    many = draw_segments(Image.new("RGB", (640, 480)), ids, segments, names)
    assert many.width == one.width == 640
    assert many.height - 480 >= 5 * (one.height - 480)


def test_small_pictures_are_enlarged_and_nothing_at_all_is_drawn_too():
    picture = draw_segments(Image.new("RGB", (64, 48)), torch.zeros(48, 64, dtype=torch.int32), [], [])
    assert picture.width == 640
    assert picture.height > 480


def test_frames_of_a_film_are_of_one_size_and_a_class_of_one_colour():
    names = [f"class number {i}" for i in range(30)]
    frames = []
    for present in ([3], [29], [], list(range(12))):
        ids = torch.zeros(48, 64, dtype=torch.int32)
        for row, _ in enumerate(present):
            ids[4 * row : 4 * row + 4] = row + 1
        segments = [{"id": row + 1, "category_id": k} for row, k in enumerate(present)]
        frames.append(draw_segments(Image.new("RGB", (64, 48)), ids, segments, names, opacity=1.0, all_named=True))
    assert len({frame.size for frame in frames}) == 1
    palette = colours(30)
    assert frames[0].getpixel((320, 20)) == palette[3] and frames[1].getpixel((320, 20)) == palette[29]
    assert frames[2].getpixel((320, 20)) == (0, 0, 0) and frames[3].getpixel((320, 40 * 3 + 20)) == palette[3]
