"""Against loops over cells and pixels, on a tower whose dense map is the color of each cell."""

import pytest
import torch
import torch.nn.functional as F

from clipself_d2.clip import build_image_tower
from clipself_d2.errors import InputError
from clipself_d2.miniature import MODEL
from clipself_d2.regions import letterbox
from clipself_d2.semantic.zero_shot import ZeroShotSegmenter
from clipself_d2.vocabulary import Vocabulary
from tests.panoptic.color_tower import ColorTower
from tests.semantic.loops import softmax

RGB = torch.eye(3)


def vocabulary(names=("red", "green", "blue"), embeddings=RGB, **kwargs):
    return Vocabulary(list(names), embeddings, **kwargs)


def model(words=None, size=64, temperature=10.0, **kwargs):
    return ZeroShotSegmenter(ColorTower(), words or vocabulary(), size, temperature=temperature, **kwargs).eval()


def halves(height=32, width=64):
    """Left half red, right half blue."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[0, :, : width // 2] = 255
    image[2, :, width // 2 :] = 255
    return {"image": image}


def noise(height=64, width=64, seed=0):
    return {"image": torch.randint(256, (3, height, width), generator=torch.Generator().manual_seed(seed)).byte()}


def cells_of(image, stride=8):
    """Unit embeddings of an image's cells, h x w lists of vectors."""
    rows = []
    for top in range(0, image.shape[1], stride):
        row = []
        for left in range(0, image.shape[2], stride):
            color = image[:, top : top + stride, left : left + stride].float().flatten(1).mean(dim=1) / 255 + 1e-6
            row.append((color / color.norm()).tolist())
        rows.append(row)
    return rows


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("scoring", ["cell", "patch_weighted"])
@pytest.mark.parametrize("denoise", [0.0, 0.62])
def test_every_cell_by_loops(scoring, denoise):
    """A frame of as many pixels as cells: every pixel is a cell."""
    sample = {**noise(), "height": 8, "width": 8}
    words = vocabulary(embeddings=F.normalize(torch.randn(3, 3), dim=1))
    options = {"scoring": scoring, "denoise": denoise, "patch_temperature": 3.0}
    found = model(words, temperature=15.0, **options)([sample])[0]["sem_seg"]

    texts = words.text_embeddings.tolist()
    cells = [cell for row in cells_of(sample["image"]) for cell in row]
    logits = [[15 * dot(cell, text) for text in texts] for cell in cells]
    if scoring == "patch_weighted":
        for k, text in enumerate(texts):
            similarities = [dot(cell, text) for cell in cells]
            weights = softmax([3 * s for s in similarities])
            for row in logits:
                row[k] += 15 * dot(weights, similarities)
    probabilities = [softmax(row) for row in logits]
    if denoise:
        kept = [max(row[k] for row in probabilities) >= denoise for k in range(3)]
        assert 0 < sum(kept) < 3
        probabilities = [softmax([v if k else -1e9 for v, k in zip(row, kept, strict=True)]) for row in logits]
    expected = torch.tensor(probabilities).T.reshape(3, 8, 8)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_image_s_score_is_a_product_of_probabilities():
    sample = noise()
    alone, weighted = (model(scoring=s)([sample])[0]["sem_seg"][:, 4::8, 4::8] for s in ("cell", "patch_weighted"))
    ratio = weighted / alone
    # But for the norm of each cell, the classes' factors are the same everywhere.
    ratio = ratio / ratio[:1]
    torch.testing.assert_close(ratio, ratio[:, :1, :1].expand_as(ratio), rtol=0.05, atol=0.05)


def test_an_image_that_is_no_square_is_all_there_and_nothing_else():
    found = model()([halves()])[0]["sem_seg"]
    assert found.shape == (3, 32, 64)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(32, 64))
    assert found.argmax(dim=0)[:, :32].eq(0).all() and found.argmax(dim=0)[:, 32:].eq(2).all()
    # What the letterbox adds below is black and would be a bit of each class.
    torch.testing.assert_close(found, found[:, :1].expand_as(found))


@pytest.mark.parametrize(("height", "width"), [(36, 64), (64, 36), (44, 64), (1, 64)])
def test_cells_beyond_the_image_do_not_count(height, width):
    """All red: any part of the black border would change the color of no cell, but its share in the map."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[0] = 255
    found = model()([{"image": image}])[0]["sem_seg"]
    assert found.shape == (3, height, width)
    torch.testing.assert_close(found[0], torch.full((height, width), softmax([10, 0, 0])[0]))


def test_a_finer_map_finds_the_border():
    """The border is at 26 of 64 pixels, in the middle of a cell's 24..32: the fine cells end nearer to it."""
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[0, :, :26] = 255
    image[2, :, 26:] = 255
    errors = []
    for finer in (1, 2, 4):
        labels = model(finer=finer)([{"image": image}])[0]["sem_seg"].argmax(dim=0)
        errors.append(int((labels[:, :26] != 0).sum() + (labels[:, 26:] != 2).sum()))
    assert errors[0] > errors[2]
    assert errors[2] <= 64


def test_a_finer_map_is_batched():
    segmenter = model(finer=2, skip_padding=False)
    together = segmenter([halves(), noise()])
    assert segmenter.tower.calls == [("no_attn", 8, 3, 64, 64)]
    for sample, result in zip([halves(), noise()], together, strict=True):
        torch.testing.assert_close(model(finer=2)([sample])[0]["sem_seg"], result["sem_seg"])


@pytest.mark.parametrize("finer", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(32, 64), (64, 41), (11, 64), (64, 1)])
def test_the_padding_is_left_out_and_nothing_else(finer, size):
    """A tower whose cells do not see each other gives the same with and without it."""
    sample = noise(*size)
    tight, square = model(finer=finer), model(finer=finer, skip_padding=False)
    torch.testing.assert_close(tight([sample])[0]["sem_seg"], square([sample])[0]["sem_seg"])
    assert sum(b * h * w for _, b, _, h, w in tight.tower.calls) < sum(
        b * h * w for _, b, _, h, w in square.tower.calls
    )


def test_a_real_tower_without_the_padding():
    """All windows have the patches that hold something of the image, which keep their positions on the square."""
    tower = build_image_tower(MODEL, None)
    words = vocabulary(embeddings=torch.randn(3, tower.embed_dim))
    image = noise(20, 32)["image"]
    found = ZeroShotSegmenter(tower, words, 64, temperature=10.0)([{"image": image, "height": 5, "width": 8}])[0][
        "sem_seg"
    ]
    pixels, _ = letterbox([image], 64)
    with torch.no_grad():
        dense = tower.dense_embeddings(tower.normalize(pixels[:, :, :40]), padded_size=64)[0]
    expected = torch.einsum("chw,kc->khw", dense, words.text_embeddings).mul(10).softmax(dim=0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_frame_and_the_mode():
    segmenter = model(dense_mode="full")
    found = segmenter([{**halves(), "height": 48, "width": 96}])[0]["sem_seg"]
    assert found.shape == (3, 48, 96)
    assert segmenter.tower.calls[0][0] == "full"


def test_another_vocabulary_for_a_call():
    words = vocabulary(["blue", "red"], RGB[[2, 0]])
    found = model()([halves()], words)[0]["sem_seg"]
    assert found.shape == (2, 32, 64)
    assert found.argmax(dim=0)[0, 0] == 1


def test_synonyms_take_the_best():
    words = Vocabulary([["red", "crimson"], ["blue"]], torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]))
    found = model(words)([halves()])[0]["sem_seg"]
    torch.testing.assert_close(found[:, 0, 0], torch.tensor(softmax([10, 0])))


# ---- background ----


def test_a_background_row_takes_its_share():
    words = vocabulary(["red", "green"], RGB[:2], background=RGB[2])
    result = model(words)([halves()])[0]
    assert result["sem_seg"].shape == (2, 32, 64)
    assert not result["background"][:, :32].any() and result["background"][:, 32:].all()
    torch.testing.assert_close(result["sem_seg"][:, 0, 0], torch.tensor(softmax([10, 0, 0])[:2]))
    torch.testing.assert_close(result["sem_seg"][:, 0, -1], torch.tensor(softmax([0, 0, 10])[:2]))


def test_denoising_keeps_the_background():
    words = vocabulary(["red", "green"], RGB[:2], background=RGB[2])
    result = model(words, denoise=0.9)([halves()])[0]
    assert result["background"][:, 32:].all()
    torch.testing.assert_close(result["sem_seg"][:, 0, 0], torch.tensor([softmax([10, 0])[0], 0]))


def test_below_the_threshold_is_background():
    words = vocabulary(["red", "green"], RGB[:2])  # blue is neither: half, half
    plain, result = model(words)([halves()])[0], model(words, background_threshold=0.75)([halves()])[0]
    assert set(plain) == {"sem_seg"}
    assert torch.equal(plain["sem_seg"], result["sem_seg"])
    assert torch.equal(result["background"], plain["sem_seg"].amax(dim=0) < 0.75)
    assert result["background"][:, 40:].all() and not result["background"][:, :24].any()


def test_a_class_that_is_the_background():
    """Its own words find the green; the threshold finds what is none of the classes."""
    words = vocabulary(["other", "red"], RGB[[1, 0]])
    image = halves()["image"]
    image[:, 16:] = torch.tensor([0, 255, 0], dtype=torch.uint8)[:, None, None]
    result = model(words, background_threshold=0.75, background_class="other")([{"image": image}])[0]
    assert set(result) == {"sem_seg"}
    labels = result["sem_seg"].argmax(dim=0)
    assert labels[:12, :24].eq(1).all()
    assert labels[:12, 40:].eq(0).all() and labels[20:].eq(0).all()
    assert result["sem_seg"][0, 0, -1] == 0.75
    assert result["sem_seg"][0, -1, 0] > 0.99


# ---- what it is, and what it refuses ----


def test_it_has_no_weights():
    segmenter = model()
    assert not segmenter.state_dict() and not list(segmenter.parameters())
    assert not any(parameter.requires_grad for parameter in segmenter.tower.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 60}, "model.size=60.*stride 8"),
        ({"temperature": 0}, "model.temperature=0"),
        ({"scoring": "best"}, "scoring='best'.*cell or patch_weighted"),
        ({"denoise": 1.5}, "model.denoise=1.5"),
        ({"background_threshold": -0.1}, "model.background_threshold=-0.1"),
        ({"background_class": "void"}, "background_class='void'.*3 classes"),
        ({"finer": 3}, "model.finer=3.*stride 8"),
        ({"words": vocabulary(embeddings=torch.eye(4)[:3])}, "length 4.*3"),
    ],
)
def test_wrong_values(options, message):
    with pytest.raises(InputError, match=message):
        model(**options)


def test_a_call_s_vocabulary_must_fit():
    segmenter = model(background_class="red", background_threshold=0.5)
    with pytest.raises(InputError, match="background_class='red'"):
        segmenter([halves()], vocabulary(["blue"], RGB[2:]))
    with pytest.raises(InputError, match="length 4"):
        segmenter([halves()], vocabulary(embeddings=torch.eye(4)[:3]))
