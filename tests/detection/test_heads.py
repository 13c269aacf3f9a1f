import pytest
import torch
from torch import nn

from clipself_d2.detection import BoxHead, CosineClassifier
from clipself_d2.vocabulary import Vocabulary
from tests.detection.tiny import build_words


def linear(x, layer):
    return torch.stack([(layer.weight * row).sum(dim=1) + layer.bias for row in x])


# ---- the box head ----


def test_the_released_shapes():
    """Four convolutions, two shared linear layers and one each; the width is the embedding's length."""
    shapes = {n: tuple(p.shape) for n, p in BoxHead(512).named_parameters() if n.endswith("weight") and p.ndim > 1}
    assert shapes == {
        **{f"convs.{i}.weight": (256, 256, 3, 3) for i in range(4)},
        "shared.0.0.weight": (512, 256 * 49), "shared.1.0.weight": (512, 512),
        "embedding.0.weight": (512, 512), "box.0.0.weight": (512, 512), "box.1.weight": (4, 512),
    }  # fmt: skip
    assert all(isinstance(c.norm, nn.SyncBatchNorm) and c.bias is None for c in BoxHead(16, 16).convs)
    assert all(c.norm is None and c.bias is not None for c in BoxHead(16, 16, norm="").convs)


def test_the_box_heads_arithmetic():
    head = BoxHead(6, channels=4, resolution=3, num_convs=2, norm="")
    for p in head.parameters():
        nn.init.normal_(p, std=0.3)
    regions = torch.randn(5, 4, 3, 3)
    x = regions
    for conv in head.convs:
        x = nn.functional.conv2d(x, conv.weight, conv.bias, padding=1).clamp(min=0)
    x = x.flatten(1)
    for layer in head.shared:
        x = linear(x, layer[0]).clamp(min=0)
    embeddings, deltas = head(regions)
    torch.testing.assert_close(embeddings, linear(x, head.embedding[0]).clamp(min=0))
    torch.testing.assert_close(deltas, linear(linear(x, head.box[0][0]).clamp(min=0), head.box[1]))
    assert (embeddings >= 0).all() and (deltas < 0).any()


@pytest.mark.parametrize("norm", ["BN", ""])
def test_no_regions_give_no_rows_yet_every_parameter_a_gradient(norm):
    """So that ranks without regions keep step with the others."""
    head = BoxHead(6, channels=4, num_convs=2, norm=norm).train()
    embeddings, deltas = head(torch.zeros(0, 4, 7, 7))
    assert embeddings.shape == (0, 6) and deltas.shape == (0, 4)
    (embeddings.sum() + deltas.sum()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())
    with torch.no_grad():
        assert [len(x) for x in head.eval()(torch.zeros(0, 4, 7, 7))] == [0, 0]


# ---- the classifier ----


def test_logits_are_cosines_times_the_temperature():
    vocabulary = build_words()
    classifier = CosineClassifier()
    assert classifier.temperature.item() == 50 and classifier.temperature.ndim == 0
    with torch.no_grad():
        classifier.temperature.fill_(30.0)
    embeddings = torch.randn(4, 16) * 7
    rows = torch.cat([vocabulary.text_embeddings, vocabulary.background[None]])
    expected = [[30 * torch.cosine_similarity(e, r, dim=0).item() for r in rows] for e in embeddings]
    torch.testing.assert_close(classifier(embeddings, vocabulary), torch.tensor(expected))


def test_the_temperature_learns():
    classifier = CosineClassifier()
    classifier(torch.randn(4, 16), build_words())[:, 0].sum().backward()
    assert classifier.temperature.grad.abs() > 0


def test_a_fixed_temperature_serves_evaluation_alone():
    """The released transfer configs: 50, whatever was learned."""
    classifier = CosineClassifier(temperature=20, fixed_temperature=50)
    embeddings, vocabulary = torch.randn(4, 16), build_words()
    train, test = classifier.train()(embeddings, vocabulary), classifier.eval()(embeddings, vocabulary)
    torch.testing.assert_close(train / 20, test / 50)
    assert train.requires_grad and not test.requires_grad


def test_a_zero_embedding_is_no_nan():
    """The ReLU allows it, and the released code divides by its norm."""
    embeddings = torch.zeros(3, 16)
    embeddings[1] = torch.rand(16)
    embeddings.requires_grad_()
    logits = CosineClassifier()(embeddings, build_words())
    assert not logits[0].any() and logits[1].any()
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 5])).backward()
    assert torch.isfinite(embeddings.grad).all()


def test_the_length_of_an_embedding_does_not_matter():
    embeddings, vocabulary, classifier = torch.rand(5, 16), build_words(), CosineClassifier()
    torch.testing.assert_close(classifier(embeddings * 1e-3, vocabulary), classifier(embeddings * 1e3, vocabulary))


def test_a_learned_background():
    classifier = CosineClassifier(learned_background=16)
    vocabulary, embeddings = build_words(), torch.randn(4, 16)
    logits = classifier(embeddings, vocabulary)
    fixed = CosineClassifier()(embeddings, vocabulary)
    assert torch.equal(logits[:, :5], fixed[:, :5]) and not torch.allclose(logits[:, 5], fixed[:, 5])
    expected = 50 * torch.cosine_similarity(embeddings, classifier.background[None], dim=1)
    torch.testing.assert_close(logits[:, 5], expected)
    logits[:, 5].sum().backward()
    assert classifier.background.grad.any()
    assert set(classifier.state_dict()) == {"temperature", "background"}
    assert set(CosineClassifier().state_dict()) == {"temperature"}


def test_a_class_takes_its_best_synonym():
    rows = torch.eye(4)
    vocabulary = Vocabulary([("cat", "kitty"), "dog"], rows[:3], background=rows[3])
    logits = CosineClassifier(temperature=1)(torch.tensor([[0.6, 0.8, 0.0, 0.0], [0.0, 0.6, 0.8, 0.0]]), vocabulary)
    torch.testing.assert_close(logits, torch.tensor([[0.8, 0.0, 0.0], [0.6, 0.8, 0.0]]))


def test_autocast_does_not_coarsen_the_cosines():
    classifier, vocabulary, embeddings = CosineClassifier(), build_words(), torch.randn(4, 16)
    with torch.autocast("cpu", torch.bfloat16):
        logits = classifier(embeddings, vocabulary)
    assert logits.dtype == torch.float32 and torch.equal(logits, classifier(embeddings, vocabulary))
