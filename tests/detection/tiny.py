"""A detector of a few thousand parameters on tiny towers, drawn scenes, and what runs on several ranks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils import comm
from timm.models import register_model
from timm.models.eva import Eva
from torch.nn.parallel import DistributedDataParallel

from clipself_d2.backbones import CLIPBackbone, FPNPyramid
from clipself_d2.clip import ImageTower, build_image_tower
from clipself_d2.detection import BoxHead, CosineClassifier, FViT, OpenVocabularyROIHeads, build_rpn
from clipself_d2.engine.trainer import Trainer
from clipself_d2.vocabulary import Vocabulary

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    # stride 8: levels of 2, 4, 8, 16, 32 pixels
    "tiny-vit-8": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16},
        "text_cfg": TEXT,
    },
    # L/14's: levels of 3.5, 7, 14, 28, 56 pixels
    "tiny-eva-14": {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 28,
            "timm_model_name": "eva02_tiny_patch14_clip_28",
            "timm_model_pretrained": False,
            "timm_pool": "token",
            "timm_proj": None,
        },
        "text_cfg": TEXT,
        "custom_text": True,
    },
}
RESNET = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": TEXT,
}
CLASSES = ["red star", "blue heart", "green disc", "red heart", "blue star"]
NOVEL = ["red heart", "blue star"]


@register_model
def eva02_tiny_patch14_clip_28(pretrained: bool = False, **kwargs: Any) -> Eva:
    """EVA-02-CLIP L/14's build, at the size of a test."""
    return Eva(
        img_size=28,
        patch_size=14,
        embed_dim=32,
        depth=3,
        num_heads=2,
        qkv_fused=False,
        mlp_ratio=4 * 2 / 3,
        swiglu_mlp=True,
        scale_mlp=True,
        scale_attn_inner=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(16, 16),
        global_pool=kwargs["global_pool"],
        num_classes=kwargs["num_classes"],
    )


def build_tower(folder: Path, name: str = "tiny-vit-8", seed: int = 0) -> ImageTower:
    """A tower with random weights; the same for the same seed."""
    path = Path(folder) / f"{name}.json"
    path.write_text(json.dumps({**CONFIGS, "tiny-resnet": RESNET}[name]))
    torch.manual_seed(seed)
    return build_image_tower(str(path), None)


def build_words(
    classes: Sequence[str] = CLASSES, novel: Sequence[str] = NOVEL, length: int = 16, seed: int = 0
) -> Vocabulary:
    """A vocabulary of random embeddings; a word has the same one in every vocabulary of a seed."""

    def embed(word: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed * 1000 + sum(word.encode()))
        return torch.randn(length, generator=generator)

    return Vocabulary(
        classes, torch.stack([embed(word) for word in classes]), novel=novel, background=embed("background")
    )


def match_by_loop(
    overlaps: Sequence[Sequence[float]], negative: float, positive: float, best: float | None
) -> list[tuple[int, int]]:
    """The rule in words: a box goes to what it overlaps most; then each object, first to last, takes its best boxes."""
    found: list[tuple[int, int]] = []
    for box in range(len(overlaps[0])):
        column = [row[box] for row in overlaps]
        label = 1 if max(column) >= positive else 0 if max(column) < negative else -1
        found.append((column.index(max(column)), label))
    for index, row in enumerate(overlaps):
        largest = max(row)
        for box, overlap in enumerate(row):
            if best is not None and largest >= best and overlap == largest:
                found[box] = (index, 1)
    return found


def build_detector(
    tower: ImageTower,
    *,
    norm: str = "BN",
    trainable: bool = False,
    masks: bool = False,
    size: int = 0,
    vocabulary: Vocabulary | None = None,
    seed: int = 0,
    classifier: dict[str, Any] | None = None,
    **heads: Any,
) -> FViT:
    """F-ViT with 16 channels; the same weights for the same seed."""
    torch.manual_seed(seed)
    backbone = CLIPBackbone(tower, [0, 1, 2, 2], FPNPyramid(32, (4, 2, 1, 0.5), 16, norm), trainable)
    mask_head = None
    if masks:
        mask_head = MaskRCNNConvUpsampleHead(ShapeSpec(channels=16), num_classes=1, conv_dims=[16] * 3, conv_norm=norm)
    return FViT(
        backbone,
        build_rpn(
            backbone.strides, 16, anchor_scale=4, batch_size_per_image=32, pre_nms_topk=(60, 60), post_nms_topk=(30, 30)
        ),
        OpenVocabularyROIHeads(
            backbone.strides,
            BoxHead(16, 16, num_convs=2, norm=norm),
            CosineClassifier(**(classifier or {})),
            mask_head,
            **{"canonical_size": 2 * tower.stride, "batch_size_per_image": 24, **heads},
        ),
        vocabulary or build_words(),
        size or 8 * tower.stride,
    )


def scene(draw: int, objects: int = 3, size: tuple[int, int] = (48, 60), masks: bool = True) -> dict[str, Any]:
    """A training sample of random pixels with boxes of seen classes, a function of its arguments."""
    rng = np.random.default_rng([draw, objects])
    height, width = size
    corners = rng.uniform(0, 0.5, (objects, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.2, 0.5, (objects, 2))], axis=1)
    boxes = (boxes * [width, height, width, height]).reshape(-1, 4).round()
    instances = Instances(size, gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32)))
    instances.gt_classes = torch.from_numpy(rng.integers(0, 3, objects))
    if masks:
        drawn = np.zeros((objects, height, width), dtype=bool)
        for mask, (x0, y0, x1, y1) in zip(drawn, boxes.astype(int), strict=True):
            mask[y0:y1, x0:x1] = True
        instances.gt_masks = BitMasks(torch.from_numpy(drawn))
    image = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
    return {"image": image, "image_id": draw, "instances": instances, "height": height, "width": width}


def random_image(rows: int = 48, columns: int = 60, **frame: int) -> dict[str, Any]:
    """A sample of random pixels as in evaluation; `frame` may give its `height` and `width`."""
    return {"image": torch.randint(0, 256, (3, rows, columns), dtype=torch.uint8), **frame}


def everything(model: FViT) -> FViT:
    """Let every proposal be a detection of every class, its box as proposed."""
    heads = model.roi_heads
    heads.score_thresh, heads.nms_thresh, heads.detections_per_image = -1.0, 1.0, -1
    torch.nn.init.zeros_(heads.box_head.box[1].weight)
    return model


# Numbers of objects of the images of each step's batch on two ranks: uneven; one rank without objects, or both.
STEPS: list[tuple[list[int], list[int]]] = [
    ([3, 1], [2, 4]),
    ([0, 0], [3, 2]),
    ([2, 1], [1]),
    ([0], [0, 0]),
    ([1, 1], [2, 0]),
]


class _Record(HookBase):
    def __init__(self, states: list[dict[str, torch.Tensor]]) -> None:
        self.states = states

    def after_step(self) -> None:
        self.states.append({name: value.clone() for name, value in self.trainer.model.module.state_dict().items()})


def train_share(folder: str) -> None:
    """Train on this rank's share of every batch of `STEPS` and save the detector's state after every step."""
    torch.set_num_threads(1)
    rank = comm.get_rank()
    model = build_detector(build_tower(Path(folder) / f"rank{rank}"), norm="naiveSyncBN", masks=True).train()
    model = DistributedDataParallel(model, find_unused_parameters=False, broadcast_buffers=False)
    batches = [
        [scene(10 * step + 5 * rank + i, objects) for i, objects in enumerate(shares[rank])]
        for step, shares in enumerate(STEPS)
    ]
    trainer = Trainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.01))
    states: list[dict[str, torch.Tensor]] = []
    trainer.register_hooks([_Record(states)])
    trainer.train(0, len(STEPS))
    torch.save(states, f"{folder}/rank{rank}.pth")
