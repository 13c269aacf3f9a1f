"""The correlation of patches, against loops over images, rows and columns."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipself_d2.clip.dense_modes import patch_correlation
from clipself_d2.distillation import CorrelationLoss, TimmGuide, TowerGuide
from clipself_d2.distillation.correlation import row_distances
from clipself_d2.errors import InputError
from clipself_d2.regions.crops import letterbox
from tests.distillation.tiny import build, perturb, sample, write_model


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


def with_correlation(model_file: str, **kwargs):
    options = {"dense_mode": "clearclip", **kwargs}
    guide = options.pop("guide", None) or TowerGuide(build(model_file, seed=5).tower, block=1)
    names = ("weight", "of", "temperature")
    correlation = CorrelationLoss(guide, **{name: options.pop(name) for name in names if name in options})
    return perturb(build(model_file, correlation=correlation, **options))


def naive_rows(student: Tensor, guide: Tensor, visible: Tensor, temperature: float | None) -> list[float]:
    found = []
    for image in range(len(student)):
        rows = [i for i in range(student.shape[1]) if visible[image, i]]
        total = 0.0
        for i in rows:
            ours = [student[image, i, j].item() for j in rows]
            theirs = [guide[image, i, j].item() for j in rows]
            if temperature is None:
                total += math.sqrt(sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)))
            else:
                targets = [math.exp(b / temperature) for b in theirs]
                outputs = [math.exp(a / temperature) for a in ours]
                shares = zip(targets, outputs, strict=True)
                total -= sum(t / sum(targets) * math.log(o / sum(outputs)) for t, o in shares)
        found.append(total / len(rows))
    return found


def test_correlations_are_cosines():
    features = torch.randn(2, 5, 2, 3)
    correlation = patch_correlation(features)
    assert correlation.shape == (2, 6, 6)
    for image in range(2):
        for i in range(6):
            for j in range(6):
                pair = (features[image, :, n // 3, n % 3] for n in (i, j))
                assert correlation[image, i, j].item() == pytest.approx(
                    F.cosine_similarity(*pair, dim=0).item(), abs=1e-6
                )


@pytest.mark.parametrize("temperature", [None, 0.3])
def test_rows_are_compared_as_in_a_loop(temperature):
    student, guide = torch.randn(2, 7, 7), torch.randn(2, 7, 7)
    visible = torch.ones(2, 7, dtype=torch.bool)
    visible[1, 4:] = False
    expected = naive_rows(student, guide, visible, temperature)
    torch.testing.assert_close(row_distances(student, guide, visible, temperature), torch.tensor(expected))


@pytest.mark.parametrize("temperature", [None, 0.3])
def test_equal_correlations_have_a_finite_gradient(temperature):
    guide = torch.randn(1, 4, 4)
    student = guide.clone().requires_grad_()
    row_distances(student, guide, torch.ones(1, 4, dtype=torch.bool), temperature).sum().backward()
    torch.testing.assert_close(student.grad, torch.zeros(1, 4, 4), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("of", "mode"), [("dense", "no_attn"), ("queries", "clearclip")])
def test_the_loss_is_the_weighted_mean_over_images_each_read_alone(model_file, of, mode):
    model = with_correlation(model_file, weight=0.1, of=of, dense_mode=mode)
    batch = [sample(0, 3), sample(1, 1), sample(2, 0)]
    losses = model(batch)
    assert losses.keys() == {"loss_clipself", "loss_correlation"}
    total = 0.0
    for x in batch:
        pixels, [scale] = letterbox([x["image"]], 64)
        height, width = (-int(-side * scale // 8) for side in x["image"].shape[-2:])
        normalized = model.tower.normalize(pixels)
        seen = normalized[..., : height * 8, : width * 8]
        dense, [before] = model.tower.features(seen, [1], mode, padded_size=64)
        if of == "queries":
            block = model.tower.trainable_units()[-1]
            weight, bias = block.attn.in_proj_weight[:32], block.attn.in_proj_bias[:32]
            dense = (block.ln_1(before.flatten(2).mT) @ weight.T + bias).mT.unflatten(2, before.shape[-2:])
        guide = model.guide.tower.features(normalized, [1]).blocks[0][..., :height, :width]
        centers = [
            (row + 0.5) * 8 < x["image"].shape[1] * scale and (column + 0.5) * 8 < x["image"].shape[2] * scale
            for row in range(height)
            for column in range(width)
        ]
        [row] = naive_rows(patch_correlation(dense), patch_correlation(guide), torch.tensor([centers]), None)
        total += row * len(x["regions"])
    assert losses["loss_correlation"].item() == pytest.approx(0.1 * total / 4, rel=1e-4)


def test_every_trainable_parameter_gets_a_gradient_and_the_guide_none(model_file):
    model = with_correlation(model_file, weight=1.0, of="queries", trainable_blocks=1)
    sum(model([sample(0, 2), sample(1, 0)]).values()).backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in model.guide.parameters())
    assert not any(name.startswith("guide") for name in model.state_dict())


def test_images_without_regions_give_zeros(model_file):
    losses = with_correlation(model_file, weight=1.0)([sample(0, 0)])
    assert all(loss.item() == 0 for loss in losses.values())


class Coarse(nn.Module):
    """Features of 4 x 4 squares of pixels' means."""

    def forward(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, 4)


def test_a_guide_of_another_grid_resizes_the_student(model_file):
    model = with_correlation(model_file, weight=1.0, guide=Coarse(), skip_padding=False)
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    x = {**sample(0, 1), "image": image}
    dense = model.tower.dense_embeddings(model.tower.normalize(image[None]), "clearclip")
    student = F.interpolate(dense, (4, 4), mode="bilinear")
    guide = F.adaptive_avg_pool2d(image[None] / 255, 4)
    everything = torch.ones(1, 16, dtype=torch.bool)
    [expected] = naive_rows(patch_correlation(student), patch_correlation(guide), everything, None)
    assert model([x])["loss_correlation"].item() == pytest.approx(expected, rel=1e-4)


def test_a_guide_of_timm_gives_its_normalized_last_features():
    guide = TimmGuide("vit_tiny_patch16_224", size=64, pretrained=False).eval()
    images = torch.rand(2, 3, 64, 64)
    tokens = guide.model.forward_features((images - guide.mean) / guide.std)[:, 1:]
    expected = tokens.mT.unflatten(2, (4, 4))
    torch.testing.assert_close(guide(images), expected, atol=1e-5, rtol=1e-5)
    assert guide(torch.rand(1, 3, 32, 32)).shape[-2:] == (4, 4)
    wide = torch.rand(1, 3, 45, 90)
    resized = F.interpolate(wide, (32, 64), mode="bicubic", antialias=True)
    torch.testing.assert_close(guide(wide), guide(resized))
    assert guide(wide).shape[-2:] == (2, 4)


def test_a_tower_guides_by_its_dense_map(model_file):
    tower = build(model_file, seed=5).tower
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(TowerGuide(tower)(images), tower.dense_embeddings(tower.normalize(images * 255)))


def test_wrong_input(model_file, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    with pytest.raises(InputError, match=r"model\.correlation\.of is 'keys': use dense or queries"):
        CorrelationLoss(Coarse(), 1.0, of="keys")
    with pytest.raises(InputError, match=r"'no_attn' does not read .*; use one of full, qq, sclip, clearclip, declip$"):
        with_correlation(model_file, weight=1.0, of="queries", dense_mode="no_attn")
    with pytest.raises(InputError, match=r"timm does not know 'dino_v9'"):
        TimmGuide("dino_v9", size=64)
    with pytest.raises(InputError, match=r"size=70: not a multiple of the patch of 'vit_tiny_patch16_224', 16"):
        TimmGuide("vit_tiny_patch16_224", size=70, pretrained=False)
    with pytest.raises(InputError, match=r"'resnet18' is no vision transformer"):
        TimmGuide("resnet18", size=64, pretrained=False)
    with pytest.raises(InputError, match=r"the weights of 'vit_tiny_patch16_224' cannot be had: .*no network"):
        monkeypatch.setattr(timm, "create_model", refuse)
        TimmGuide("vit_tiny_patch16_224", size=64)
    with pytest.raises(InputError, match=r"blocks \[7\] do not exist"):
        TowerGuide(build(model_file).tower, block=7)
