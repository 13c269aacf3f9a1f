"""A stand-alone region proposal network: ResNet-50, FPN and RPN, which the paper trains on OV-COCO's base classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import Backbone
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.meta_arch import ProposalNetwork
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Instances
from torch import Tensor

from clipself_d2.clip.checkpoint import check_fit, read_checkpoint
from clipself_d2.data.image import result_size
from clipself_d2.detection.rpn import name_batch

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet, RGB, 0..255: torchvision's
_STAGES = ["res2", "res3", "res4", "res5"]


class RegionProposalNetwork(ProposalNetwork):
    """Detectron2's `ProposalNetwork`, which resizes images of any size on its device in evaluation.

    The classes of the training boxes are ignored. Training images come resized (`DetectionMapper`).

    Args:
        backbone: a Detectron2 backbone, such as an FPN on `resnet50`.
        rpn: Detectron2's `RPN` on its levels.
        short_edge: pixels of the short side in evaluation, see Detectron2's `ResizeShortestEdge`.
        long_edge: most pixels of the long side in evaluation.
    """

    def __init__(self, backbone: Backbone, rpn: RPN, short_edge: int = 800, long_edge: int = 1333) -> None:
        super().__init__(backbone=backbone, proposal_generator=rpn, pixel_mean=_MEAN, pixel_std=_STD)
        self.short_edge = short_edge
        self.long_edge = long_edge

    def forward(self, inputs: list[dict[str, Any]]) -> Any:
        """Run Detectron2's contract of a proposal network.

        Args:
            inputs: samples with `image` (3 x H x W uint8 RGB) and, in training, `instances` with `gt_boxes` in pixels
                of the image. In evaluation `height` and `width` give the frame of the results (default: the image's).

        Returns:
            In training `{"loss_rpn_cls", "loss_rpn_loc"}`; in evaluation `{"proposals": Instances}` per image.

        Raises:
            NonFiniteLossError: if training has diverged.
        """
        if not self.training:
            return super().forward([self._resize(x) for x in inputs])
        with name_batch(inputs):
            return super().forward(inputs)

    @torch.no_grad()
    def propose(self, inputs: Sequence[dict[str, Any]]) -> list[Instances]:
        """Return `proposal_boxes` and `objectness_logits` per image, best first; `inputs` as in evaluation."""
        return [output["proposals"] for output in self(list(inputs))]

    def _resize(self, sample: dict[str, Any]) -> dict[str, Any]:
        """The sample with its image resized, bilinear and antialiased, and the frame of its results."""
        image = sample["image"].to(self.device).float()
        size = ResizeShortestEdge.get_output_shape(*image.shape[1:], self.short_edge, self.long_edge)
        size = [max(1, side) for side in size]
        height, width = result_size(sample)
        resized = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
        return {"image": resized, "height": height, "width": width}


def resnet50(weights: str | None, norm: str = "FrozenBN", freeze_at: int = 2) -> ResNet:
    """Build torchvision's ResNet-50 (strides in the 3 x 3 convolutions) as a backbone with `res2` .. `res5`.

    Args:
        weights: ImageNet weights with torchvision's names: a state dict as `.pth` (such as `resnet50-0676ba61.pth` from
            download.pytorch.org) or `.safetensors`. None for random weights.
        norm: Detectron2's name of a norm; "FrozenBN" keeps the statistics of the weights.
        freeze_at: 1 freezes the stem, 2 also `res2`; 0 freezes nothing.

    Raises:
        InputError: a file that is missing, unreadable or of another network.
    """
    stem = BasicStem(in_channels=3, out_channels=64, norm=norm)
    stages = ResNet.make_default_stages(50, stride_in_1x1=False, norm=norm)
    model = ResNet(stem, stages, out_features=_STAGES)
    if weights is not None:
        state = from_torchvision(read_checkpoint(weights))
        # torchvision counts batches, and frozen batch norms do not: neither side of the check has the counters.
        expected = {name: value for name, value in model.state_dict().items() if not name.endswith("batches_tracked")}
        check_fit(state, expected, str(weights))
        model.load_state_dict(state, strict=False)
    return model.freeze(freeze_at)


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the state dict of torchvision's ResNet to Detectron2's names, without the classifier.

    `conv1` and `bn1` become `stem`, `layer1` .. `layer4` become `res2` .. `res5`, `downsample.0` and `.1` become
    `shortcut` and its norm, and `bn2` of a block becomes the norm of its `conv2`.
    """
    renamed = {}
    for name, value in state.items():
        if name.startswith("fc.") or name.endswith("num_batches_tracked"):
            continue
        name = re.sub(r"^(?=conv1|bn1)", "stem.", name)
        name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
        name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        renamed[re.sub(r"\bbn(\d)", r"conv\1.norm", name)] = value
    return renamed
