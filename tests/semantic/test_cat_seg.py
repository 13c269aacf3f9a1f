import copy

import pytest
import torch
import torch.nn.functional as F
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import META_ARCH_REGISTRY

from clipself_d2.errors import InputError
from clipself_d2.semantic import UpsamplingDecoder, cat_seg
from clipself_d2.vocabulary import Vocabulary
from tests.detection.tiny import build_tower
from tests.semantic.tiny import WORDS, build, sample, words


def scores(model, inputs, vocabulary=None):
    return [result["sem_seg"] for result in model.eval()(inputs, vocabulary)]


def test_the_official_class_may_take_its_name_in_detectron2s_registry():
    assert "CATSeg" not in META_ARCH_REGISTRY


def test_gradients_flow_where_they_should(tower):
    model = build(tower).train()
    losses = model([sample(1), sample(2)])
    assert losses.keys() == {"loss_sem_seg"}
    losses["loss_sem_seg"].backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is not None for name, p in model.named_parameters() if name in trained)
    assert all(p.grad is None for name, p in model.named_parameters() if name not in trained)
    inside = {name for name in trained if name.startswith("trained_tower.")}
    assert len(inside) == 2 * tower.num_blocks - 1  # the last block's values see no queries
    assert all("original0" in n or "original2" in n or "q_proj.weight" in n or "v_proj.weight" in n for n in inside)
    assert {name.split(".")[0] for name in trained - inside} == {"aggregator", "decoder"}


def test_a_frozen_tower_is_not_in_the_state_dict(tower, tmp_path):
    model = build(tower, trainable=False).train()
    model([sample(1)])["loss_sem_seg"].backward()
    assert all(p.grad is None for p in tower.parameters())
    state = model.state_dict()
    assert {name.split(".")[0] for name in state} == {"aggregator", "decoder", "tower_fingerprint"}
    other = build(build_tower(tmp_path, "tiny-vit-8", seed=1), trainable=False)
    with pytest.raises(InputError, match="another image tower"):
        other.load_state_dict(state)


def test_a_checkpoint_brings_the_trained_tower_back(tower):
    """It has of the tower what trains, and is refused beside another tower."""
    model, another = build(copy.deepcopy(tower)).train(), copy.deepcopy(tower)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model([sample(1)])["loss_sem_seg"].backward()
    optimizer.step()
    state = model.state_dict()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained < state.keys() and {n for n in state if n.startswith("trained_tower.")} < trained
    other = build(tower, seed=5)
    before = scores(other, [sample(3)])[0]
    other.load_state_dict(state)
    after = scores(other, [sample(3)])[0]
    assert torch.equal(after, scores(model, [sample(3)])[0]) and not torch.allclose(after, before, atol=1e-4)
    with torch.no_grad():
        next(another.parameters()).add_(1e-3)
    with pytest.raises(InputError, match="another image tower"):
        build(another).load_state_dict(state)


def test_a_few_steps_learn(vit):
    model = build(vit).train()
    x = sample(1)
    x["image"][:, :, :10], x["image"][:, :, 10:] = 40, 200
    x["sem_seg"][:, :10], x["sem_seg"][:, 10:] = 0, 2
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(25):
        loss = model([x])["loss_sem_seg"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_scores_are_in_pixels_of_the_image(tower):
    model = build(tower)
    inputs = [sample(1, size=(30, 17)), {**sample(2, size=(9, 40)), "height": 21, "width": 33}]
    first, second = scores(model, inputs)
    assert first.shape == (len(WORDS), 30, 17) and second.shape == (len(WORDS), 21, 33)
    assert first.dtype == torch.float32 and (first >= 0).all() and (first <= 1).all()
    assert torch.allclose(scores(model, inputs[:1])[0], first, atol=1e-5)  # the batch does not matter


def test_more_classes_than_in_training_in_any_order(vit):
    model = build(vit, words(WORDS[:3]))
    inputs = [sample(1)]
    names = [*WORDS, "cat", "dog", "sofa"]
    several = scores(model, inputs, words(names))[0]
    assert several.shape[0] == 9
    order = [4, 8, 0, 2, 6, 1, 7, 3, 5]
    shuffled = scores(model, inputs, words([names[i] for i in order]))[0]
    assert torch.allclose(shuffled, several[order], atol=1e-5)
    assert scores(model, inputs)[0].shape[0] == 3
    assert scores(build(vit, test_vocabulary=words(names)), inputs)[0].shape[0] == 9


def test_training_leaves_out_novel_classes(vit):
    """Neither their names nor their pixels are used: the loss is that of a model that never knew them."""
    x = sample(1)
    both = build(vit, words(novel=["blue", "pond"])).train()
    known = [i for i, name in enumerate(WORDS) if name not in ("blue", "pond")]
    labels = torch.full_like(x["sem_seg"], 255)
    for place, number in enumerate(known):
        labels[x["sem_seg"] == number] = place
    alone = build(vit, words([WORDS[i] for i in known])).train()
    expected = alone([{**x, "sem_seg": labels}])["loss_sem_seg"]
    assert torch.allclose(both([x])["loss_sem_seg"], expected, atol=1e-6)
    assert both.num_loss_items([x]) == int((labels != 255).sum())
    assert scores(both, [x])[0].shape[0] == len(WORDS)


def test_a_training_vocabulary_of_the_call(vit):
    model, x = build(vit, words(WORDS[:4])).train(), sample(1)
    expected = build(vit, words()).train()([x])["loss_sem_seg"]
    assert torch.allclose(model([x], words())["loss_sem_seg"], expected, atol=1e-6)


def test_images_without_labels_have_a_loss_of_zero(tower):
    model, x = build(tower).train(), sample(1)
    x["sem_seg"].fill_(255)
    loss = model([x])["loss_sem_seg"]
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert model.num_loss_items([x]) == 0


def test_training_may_draw_some_of_the_classes(vit):
    model = build(vit, train_classes=3).train()
    x = sample(1, num_classes=2)
    scored = []
    model.decoder.register_forward_hook(lambda _, __, logits: scored.append(logits.shape[1]))
    loss = model([x, x])["loss_sem_seg"]
    assert scored == [3] and 0 < float(loss.detach()) < 10


def test_of_too_many_classes_the_likely_ones_are_scored(vit):
    inputs = [sample(1)]
    every, few = scores(build(vit), inputs)[0], scores(build(vit, max_classes=2), inputs)[0]
    dense = vit.dense_embeddings(
        vit.normalize(F.interpolate(inputs[0]["image"][None].float(), (32, 32), mode="bilinear"))
    )
    peaks = torch.einsum("chw,kc->khw", dense[0], words().text_embeddings).flatten(1).amax(dim=1)
    likely = set(peaks.topk(2).indices.tolist())
    for k in range(len(WORDS)):
        assert (few[k] > 1e-6).all() == (k in likely)
    two = scores(build(vit), inputs, words([WORDS[k] for k in sorted(likely)]))[0]
    assert torch.allclose(few[sorted(likely)], two, atol=1e-5)
    assert not torch.allclose(every[sorted(likely)], two, atol=1e-4)  # the others were compared too


def test_the_dense_map_of_the_released_code(vit):
    """The costs come from the mode, and its gradients reach all that is said to train."""
    model, x = build(vit, dense_mode="class_residual"), sample(1)
    found = []
    model.aggregator.register_forward_pre_hook(lambda _, args: found.append(args))
    scores(model, [x])
    square = F.interpolate(x["image"][None].float(), (32, 32), mode="bilinear")
    dense = vit.dense_embeddings(vit.normalize(square), "class_residual")
    torch.testing.assert_close(found[0][0], torch.einsum("bchw,kc->bkhw", dense, words().text_embeddings))
    model.train()([x])["loss_sem_seg"].backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("limit", [2**27, 1])
def test_sliding_windows_equal_a_loop(vit, limit, monkeypatch):
    monkeypatch.setattr(cat_seg, "_MAX_ELEMENTS", limit)
    monkeypatch.setattr(cat_seg, "_MERGED_ELEMENTS", limit)
    model, x = build(vit, window=24, image_size=40, overlap=1 / 3), sample(1, size=(50, 33))
    plain = build(vit)

    def logits(image):  # of an image, 3 x h x w, at the decoder's resolution
        found = []
        hook = plain.decoder.register_forward_hook(lambda _, __, out: found.append(out[0]))
        plain.eval()([{"image": image}])
        hook.remove()
        return found[0]

    def resize(maps, side):
        return F.interpolate(maps[None].float(), side, mode="bilinear", align_corners=False)[0]

    # Detectron2's mapper enlarges the short edge to 40 pixels; nothing after that is antialiased.
    image = F.interpolate(x["image"][None].float(), (61, 40), mode="bilinear", antialias=True)[0].round()
    resized = resize(image, (40, 40))
    total, count = torch.zeros(len(WORDS), 40, 40), torch.zeros(40, 40)
    for top in (0, 16):
        for left in (0, 16):
            window = resized[:, top : top + 24, left : left + 24]
            total[:, top : top + 24, left : left + 24] += resize(logits(window), (24, 24)).sigmoid()
            count[top : top + 24, left : left + 24] += 1
    whole = resize(resize(logits(resize(image, (24, 24))), (24, 24)).sigmoid(), (40, 40))
    expected = resize((total / count + whole) / 2, (50, 33))
    assert torch.allclose(scores(model, [x])[0], expected, atol=1e-5)


@pytest.mark.parametrize("window", [0, 24])
def test_labels_are_the_best_of_the_scores(vit, window, monkeypatch):
    monkeypatch.setattr(cat_seg, "_MERGED_ELEMENTS", 1)  # a class at a time
    model, x = build(vit, window=window, image_size=40), sample(1, size=(50, 33))
    [expected] = scores(model, [x])
    model.labels_only = True
    with torch.no_grad():
        [found] = model.eval()([x])
    assert found.keys() == {"labels", "label_scores"}
    assert torch.equal(found["labels"], expected.argmax(dim=0).int())
    assert torch.equal(found["label_scores"], expected.amax(dim=0))


def test_pixels_are_those_of_detectron2s_mapper(vit):
    x = sample(1, size=(90, 61))
    seen = []
    model = build(vit, window=24, image_size=40).eval()
    model.tower.normalize, normalize = lambda images: seen.append(images) or normalize(images), model.tower.normalize
    model([x])
    pixels = ResizeShortestEdge(40, 2560).get_transform(x["image"].permute(1, 2, 0).numpy())
    mapped = torch.from_numpy(pixels.apply_image(x["image"].permute(1, 2, 0).contiguous().numpy())).permute(2, 0, 1)
    whole = F.interpolate(mapped[None].float(), (24, 24), mode="bilinear")
    torch.testing.assert_close(seen[0], F.interpolate(whole, (32, 32), mode="bilinear"), atol=1.01, rtol=0)
    assert (seen[0] - F.interpolate(whole, (32, 32), mode="bilinear")).abs().mean() < 0.2


def test_images_smaller_than_a_window_are_enlarged(vit):
    model = build(vit, window=24, image_size=40)
    assert scores(model, [sample(1, size=(5, 8))])[0].shape == (len(WORDS), 5, 8)


def test_under_autocast(vit):
    model, x = build(vit), sample(1)
    exact = scores(model, [x])[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(scores(model, [x])[0], exact, atol=0.05)
        assert torch.isfinite(model.train()([x])["loss_sem_seg"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 33}, "model.size=33: not a multiple of the tower's stride 8; try 32"),
        ({"blocks": (0, 7)}, r"blocks \[7\] do not exist"),
        ({"blocks": (0,)}, r"model.blocks=\[0\]: the decoder is guided by 2 blocks"),
        ({"dense_mode": "valve"}, "dense mode 'valve'"),
        ({"window": 24, "image_size": 16}, "16 x 16 pixels, a window 24 x 24"),
        ({"max_classes": 0}, "model.max_classes=0"),
        ({"train_classes": 0}, "model.train_classes=0"),
        ({"vocabulary": words(["a"], novel=["a"])}, "none of its classes is a base class"),
        ({"vocabulary": Vocabulary(["a"], torch.ones(1, 5))}, "length 5, the image tower's 16"),
        ({"test_vocabulary": Vocabulary(["a"], torch.ones(1, 5))}, "length 5, the image tower's 16"),
    ],
)
def test_what_does_not_fit_is_refused(vit, options, message):
    with pytest.raises(InputError, match=message):
        build(vit, **options)


def test_a_resnet_is_refused(tmp_path):
    with pytest.raises(InputError, match="must not be a ResNet"):
        build(build_tower(tmp_path, "tiny-resnet"))


def test_wrong_calls_are_refused(vit):
    model = build(vit)
    with pytest.raises(InputError, match="length 5"):
        model([sample(1)], Vocabulary(["a"], torch.ones(1, 5)))
    model.train()
    with pytest.raises(InputError, match="different sizes"):
        model([sample(1), sample(2, size=(20, 24))])
    with pytest.raises(InputError, match="has the label"):
        model([sample(1, num_classes=9)])


def test_the_decoder_may_double_once(vit):
    torch.manual_seed(0)
    model = build(vit)
    model.decoder, model.blocks = UpsamplingDecoder(32, 16, (8,), (8,), (4,)), [1]
    assert scores(model, [sample(1)])[0].shape == (len(WORDS), 20, 20)
