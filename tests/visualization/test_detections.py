import numpy as np
import pytest
from PIL import Image

from clipself_d2.visualization.detections import SEEN, UNSEEN, draw_detections


def detection(box, score=0.9, seen=True, name="cat"):
    return {"bbox": box, "score": score, "seen": seen, "name": name}


def has(image, colour) -> np.ndarray:
    return (np.asarray(image) == colour).all(axis=-1)


def test_boxes_of_seen_and_unseen_words_have_their_colours():
    image = Image.new("RGB", (800, 600), (90, 90, 90))
    drawn = draw_detections(image, [detection([100, 200, 300, 250]), detection([500, 300, 200, 200], seen=False)])
    pixels = has(drawn, SEEN), has(drawn, UNSEEN)
    for mask, (x, y, width, height) in zip(pixels, ((100, 200, 300, 250), (500, 300, 200, 200)), strict=True):
        rows, columns = np.nonzero(mask[: image.height])
        assert columns.min() == x and columns.max() == x + width - 1
        assert rows.max() == y + height - 1 and y - 30 < rows.min() < y  # the name stands above
        assert mask[y + height // 2, x] and not mask[y + height // 2, x + width // 2]
    assert drawn.width == 800 and drawn.height > 600
    assert all(mask[image.height :].any() for mask in pixels)  # the legend
    assert np.asarray(image).std() == 0  # the input is untouched


def test_small_pictures_are_enlarged_by_a_whole_factor():
    drawn = draw_detections(Image.new("RGB", (128, 96)), [detection([10, 20, 30, 40], seen=False)])
    mask = has(drawn, UNSEEN)[: 5 * 96]
    rows, columns = np.nonzero(mask)
    assert drawn.width == 640 and (columns.min(), rows.max()) == (50, 299)


def test_the_threshold_and_what_is_on_top():
    image = Image.new("RGB", (700, 700))
    weak, strong = detection([100, 100, 200, 200], 0.3), detection([100, 100, 200, 200], 0.8, seen=False)
    assert has(draw_detections(image, [weak], 0.31), SEEN)[:700].sum() == 0
    both = draw_detections(image, [strong, weak])
    assert has(both, UNSEEN)[300, 150:250].sum() == 0 and has(both, UNSEEN)[299, 150:250].all()


@pytest.mark.parametrize("size", [(1, 1), (30, 10000), (10000, 30), (3, 700)])
@pytest.mark.parametrize("boxes", [[], [[0, 0, 1, 1]], [[-5, -5, 0, 0]]])
def test_pictures_of_any_shape(size, boxes):
    drawn = draw_detections(Image.new("RGB", size), [detection(box) for box in boxes])
    assert drawn.width >= size[0] and drawn.height > size[1]
