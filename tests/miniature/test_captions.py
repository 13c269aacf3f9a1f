from collections import Counter

import numpy as np
import open_clip
import pytest
import torch

from clipself_d2.data import build_train_loader
from clipself_d2.miniature import MODEL, captions
from clipself_d2.miniature.captions import TEMPLATES, SceneCaptionMapper, caption_roles
from clipself_d2.miniature.world import CLASSES, STUFF, THINGS

caption_view = SceneCaptionMapper()
THING = {"role": "thing", "category": 17}
SCENE = {"role": "scene"}


@pytest.fixture(scope="module")
def tokenizer():
    return open_clip.get_tokenizer(MODEL)


@pytest.fixture
def drawn(monkeypatch):
    """What the last view shows: its scene and its segments."""
    seen = {}
    render = captions.render

    def spy(scene, size, window):
        image, segments = render(scene, size, window)
        seen.update(scene=scene, segments=segments)
        return image, segments

    monkeypatch.setattr(captions, "render", spy)
    return seen


def names(caption):
    """The parts of a caption: names in order, and the ground it ends on or None."""
    for template in sorted(TEMPLATES, key=len, reverse=True):
        opening, _ = template.split("{}")
        if caption.startswith(opening):
            things, _, ground = caption[len(opening) :].partition(" on a ")
            return things.replace(" and a ", ", a ").split(", a "), ground or None
    raise AssertionError(caption)


def shares(drawn):
    """(share of the view, name) of each thing, counted pixel by pixel."""
    counts = Counter(drawn["segments"].ravel().tolist())
    grounds, things = drawn["scene"].grounds, drawn["scene"].things
    size = drawn["segments"].size
    return [(counts[len(grounds) + j] / size, THINGS[thing.category]) for j, thing in enumerate(things)]


def test_a_batch_holds_every_compound_and_every_ground_once():
    roles = caption_roles()
    assert len(roles) == 160
    kinds = Counter((role["role"], role.get("category")) for role in roles)
    assert all(kinds["thing", i] == 1 for i in range(96))
    assert all(kinds["stuff", i] == 1 for i in range(8))
    assert kinds["scene", None] == 56


def test_every_batch_of_the_loader_holds_them():
    loader = build_train_loader(caption_roles(), caption_view, 160, seed=3, num_workers=0)
    batches = iter(loader)
    for _ in range(2):
        batch = next(batches)
        assert len(batch) == 160
        mains = [names(sample["caption"])[0] for sample in batch]
        alone = {listed[0] for listed in mains if len(listed) == 1}
        assert alone >= set(CLASSES)


@pytest.mark.parametrize("role", [THING, SCENE, {"role": "stuff", "category": 3}])
def test_views_are_bytes_of_64_pixels_and_repeat(role):
    first, again, other = (caption_view(role, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first["image"].dtype == torch.uint8
    assert first["image"].shape == (3, 64, 64)
    assert first["image"].is_contiguous()
    assert first["caption"] == again["caption"] and torch.equal(first["image"], again["image"])
    assert not torch.equal(first["image"], other["image"])


def test_a_close_view_names_its_thing_alone_and_shows_it(drawn):
    grounds = 0
    for category in range(96):
        caption = caption_view({"role": "thing", "category": category}, np.random.default_rng(category))["caption"]
        listed, ground = names(caption)
        assert listed == [THINGS[category]]
        share, main = shares(drawn)[0]
        assert main == THINGS[category] and share >= 0.04
        if ground:
            grounds += 1
            assert [ground] == [STUFF[one.category] for one in drawn["scene"].grounds]
    assert grounds <= 96 / 4  # most captions are bare, as the classifier's prompts are


def test_a_scene_names_the_four_largest_that_cover_a_twenty_fifth(drawn):
    lengths = Counter()
    for seed in range(150):
        listed, ground = names(caption_view(SCENE, np.random.default_rng(seed))["caption"])
        large = [name for share, name in sorted(shares(drawn), key=lambda x: -x[0]) if share >= 0.04][:4]
        lengths[len(large)] += 1
        seen = {STUFF[one.category] for one in drawn["scene"].grounds}
        if large:
            assert sorted(listed) == sorted(large)  # equal shares may come in either order
            assert ground is None or {ground} == seen
        else:
            assert ground is None
            counts = Counter(drawn["segments"].ravel().tolist()).most_common(1)[0][0]
            assert listed == [STUFF[drawn["scene"].grounds[counts].category]]
    assert set(lengths) == {0, 1, 2, 3, 4}


def test_a_ground_view_is_bare(drawn):
    for category, name in enumerate(STUFF):
        caption = caption_view({"role": "stuff", "category": category}, np.random.default_rng(category))["caption"]
        assert names(caption) == ([name], None)
        assert not drawn["scene"].things and not drawn["segments"].any()


def test_every_template_opens_captions():
    openings = Counter(
        " ".join(caption_view(THING, np.random.default_rng(seed))["caption"].split()[:-2][:4]) for seed in range(60)
    )
    assert all(template.count("{}") == 1 for template in TEMPLATES)
    for template in TEMPLATES:
        assert any(opening.startswith(template.split(" {}")[0]) for opening in openings)


def test_some_views_have_black_bands_as_letterboxed_crops_have():
    banded = 0
    for seed in range(100):
        image = caption_view({"role": "stuff", "category": 7}, np.random.default_rng(seed))["image"]  # bright
        dark = image.amax(0) == 0
        rows, columns = dark.all(1), dark.all(0)
        assert not (rows.any() and columns.any())
        bands = rows if rows.any() else columns
        if bands.any():
            banded += 1
            width = int(bands.sum()) // 2
            assert bands[:width].all() and bands[-width:].all() and width < 16
    assert 15 <= banded <= 45


def test_the_classifiers_prompts_fit_the_context(tokenizer):
    length = tokenizer.context_length
    assert length == 20
    prompts = [template.format(name) for template in TEMPLATES for name in CLASSES]
    assert max(len(tokenizer.encode(prompt)) + 2 for prompt in prompts) <= length


@pytest.fixture(scope="module")
def cut(tokenizer):
    """Captions of 300 scenes that the tokenizer would cut, start and end tokens included."""
    views = (caption_view(SCENE, np.random.default_rng(seed))["caption"] for seed in range(300))
    return [caption for caption in views if len(tokenizer.encode(caption)) + 2 > tokenizer.context_length]


def test_few_captions_are_cut_and_only_long_ones(cut):
    assert len(cut) <= 0.05 * 300
    assert all(len(names(caption)[0]) >= 3 for caption in cut)
