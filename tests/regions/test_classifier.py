import json

import pytest
import torch

from clipself_d2.clip import build_towers, save_checkpoint
from clipself_d2.errors import InputError
from clipself_d2.regions import RegionClassifier, classifier
from clipself_d2.vocabulary import Vocabulary
from tests.regions.fake_tower import ColorTower
from tests.regions.test_embedder import BLUE, RED, halves

COLOURS = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 2.0]])  # not normalized on purpose
WORDS = Vocabulary(["red", "green", "blue"], COLOURS)


def test_probabilities_are_a_softmax_of_cosines():
    sample = halves()
    classifier = RegionClassifier(ColorTower(), WORDS, temperature=20.0, size=64)
    boxes = torch.tensor([[0.0, 0, 16, 32], [48, 0, 64, 32]])
    [by_box] = classifier.classify_boxes([sample["image"]], [boxes])
    cosines = torch.stack([RED, BLUE]) @ torch.eye(3)
    torch.testing.assert_close(by_box, (20 * cosines).softmax(dim=1), atol=1e-3, rtol=0)
    sample["masks"][:, :, 16:48] = False
    [by_mask] = classifier.classify_masks([sample["image"]], [sample["masks"]])
    torch.testing.assert_close(by_mask, by_box, atol=1e-3, rtol=0)


def test_images_keep_their_regions():
    images, counts = [halves()["image"], halves(20, 50)["image"]], [3, 0]
    outputs = RegionClassifier(ColorTower(), WORDS, size=32).classify_boxes(
        images, [torch.tensor([[0.0, 0, 9, 9]]).repeat(n, 1) for n in counts]
    )
    assert [tuple(o.shape) for o in outputs] == [(3, 3), (0, 3)]


def test_many_classes_are_scored_in_runs(monkeypatch):
    text = torch.nn.functional.normalize(torch.randn(50, 3), dim=-1)
    net = RegionClassifier(ColorTower(), Vocabulary([f"{i}" for i in range(50)], text), temperature=7.0, size=32)
    embeddings = torch.nn.functional.normalize(torch.randn(9, 3), dim=-1)
    expected = (7 * embeddings @ text.T).softmax(dim=-1)
    for limit in (1, 50 * 4, 2**26):
        monkeypatch.setattr(classifier, "_MAX_ELEMENTS", limit)
        torch.testing.assert_close(net.probabilities(embeddings), expected)
    assert net.probabilities(embeddings[:0]).shape == (0, 50)
    assert net.classify_boxes([], []) == []


def test_text_of_another_clip_is_refused():
    with pytest.raises(InputError, match="have length 5, the image tower's 3"):
        RegionClassifier(ColorTower(), Vocabulary(["a", "b"], torch.rand(2, 5)))


def test_a_background_is_the_last_column():
    words = Vocabulary(["red", "blue"], COLOURS[[0, 2]], background=COLOURS[1])
    box = torch.tensor([[0.0, 0, 16, 32]])
    [found] = RegionClassifier(ColorTower(), words, size=64).classify_boxes([halves()["image"]], [box])
    [plain] = RegionClassifier(ColorTower(), WORDS, size=64).classify_boxes([halves()["image"]], [box])
    torch.testing.assert_close(found, plain[:, [0, 2, 1]])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tower")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    model = folder / "tiny-regions.json"
    model.write_text(json.dumps(config))
    torch.manual_seed(0)
    image, text = build_towers(str(model), None)
    card = {"model": str(model), "student_size": 64}
    save_checkpoint({**image.state_dict(), **text.state_dict()}, folder / "tower.safetensors", card)
    return folder


def test_from_pretrained_by_card_or_by_name(exported, monkeypatch, tmp_path):
    monkeypatch.setenv("CLIPSELF_D2_CACHE", str(tmp_path))
    vocabulary = ["cat", ["dog", "puppy"], "grass"]
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0, 30, 30], [10, 10, 60, 40]])
    doors = [
        RegionClassifier.from_pretrained(exported / "tower.safetensors", vocabulary, templates="photo"),
        RegionClassifier.from_pretrained(exported / "tower.json", vocabulary, templates="photo"),
        RegionClassifier.from_pretrained(
            exported / "tiny-regions.json",
            vocabulary,
            pretrained=str(exported / "tower.safetensors"),
            templates="photo",
            size=64,
        ),
    ]
    answers = [door.classify_boxes([image], [boxes])[0] for door in doors]
    assert answers[0].shape == (2, 3) and doors[0].vocabulary.names == ["cat", "dog", "grass"] and not doors[0].training
    torch.testing.assert_close(answers[0].sum(dim=1), torch.ones(2))
    torch.testing.assert_close(answers[0], answers[1])
    torch.testing.assert_close(answers[0], answers[2])
    assert [door.embedder.size for door in doors] == [64, 64, 64]  # from the card, from the card, from the caller


def test_bad_doors(tmp_path):
    with pytest.raises(InputError, match="pretrained"):
        RegionClassifier.from_pretrained("ViT-B-16", ["cat"])
    with pytest.raises(InputError, match=r"tower\.json"):
        RegionClassifier.from_pretrained(tmp_path / "tower.safetensors", ["cat"])
    (tmp_path / "tower.json").write_text("{}")
    with pytest.raises(InputError, match="model"):
        RegionClassifier.from_pretrained(tmp_path / "tower.json", ["cat"])
    (tmp_path / "tower.json").write_text('{"model": "ViT-B-16"}')
    with pytest.raises(InputError, match="weights"):
        RegionClassifier.from_pretrained(tmp_path / "tower.json", ["cat"])
