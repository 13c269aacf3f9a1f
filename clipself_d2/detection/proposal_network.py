"""A stand-alone region proposal network: ResNet-50, FPN and RPN, as the paper trains one on OV-COCO's base classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from clipself_d2.clip.checkpoint import check_fit, read_checkpoint
from clipself_d2.data.image import result_size
from clipself_d2.detection.rpn import train_rpn

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet, RGB, 0..255: torchvision's
_STAGES = ["res2", "res3", "res4", "res5"]
_BLANK = 64  # side of the image that stands for an empty batch


@META_ARCH_REGISTRY.register()
class RegionProposalNetwork(nn.Module):
    """Class-agnostic proposals. Classes of the training boxes play no part.

    Args:
        backbone: a Detectron2 backbone, such as an FPN on `resnet50`.
        rpn: Detectron2's `RPN` on its levels.
        short_edge: in evaluation an image's short side becomes so many pixels,
        long_edge: unless its long side would exceed this. Training images come resized (`DetectionMapper`).
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, backbone: Backbone, rpn: RPN, short_edge: int = 800, long_edge: int = 1333) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn
        self.short_edge = short_edge
        self.long_edge = long_edge
        for name, values in (("pixel_mean", _MEAN), ("pixel_std", _STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, inputs: list[dict[str, Any]]) -> Any:
        """Detectron2's contract of a proposal network.

        Args:
            inputs: samples with `image` (3 x H x W uint8 RGB) and, in training, `instances` with `gt_boxes` in its
                pixels.

        Returns:
            In training `{"loss_rpn_cls", "loss_rpn_loc"}`; in evaluation `{"proposals": Instances}` for each image.

        Raises:
            NonFiniteLossError: when training has diverged before any loss is known.
        """
        if not self.training:
            return [{"proposals": proposals} for proposals in self.propose(inputs)]
        weight = 1.0 if inputs else 0.0
        if not inputs:  # a rank whose images could not be read takes part with a blank one of no weight
            blank = Instances((_BLANK, _BLANK), gt_boxes=Boxes(torch.zeros(0, 4)))
            inputs = [{"image": torch.zeros(3, _BLANK, _BLANK, dtype=torch.uint8), "instances": blank}]
        images = self._batch([x["image"].to(self.pixel_mean.device).float() for x in inputs])
        targets = [x["instances"].to(self.pixel_mean.device) for x in inputs]
        _, losses = train_rpn(self.rpn, images, self.backbone(images.tensor), targets, inputs)
        return {name: loss * weight for name, loss in losses.items()}

    @torch.no_grad()
    def propose(self, inputs: Sequence[dict[str, Any]]) -> list[Instances]:
        """The boxes of each image, best first.

        Args:
            inputs: samples with `image`, and `height` and `width` where results are wanted in another frame.

        Returns:
            For every image `proposal_boxes` (in pixels of height x width) and `objectness_logits`.
        """
        if not inputs:
            return []
        images = self._batch([self._resize(x["image"].to(self.pixel_mean.device)) for x in inputs])
        proposals, _ = self.rpn(images, self.backbone(images.tensor), None)
        return [detector_postprocess(p, *result_size(x)) for p, x in zip(proposals, inputs, strict=True)]

    def _resize(self, image: Tensor) -> Tensor:
        """3 x H x W uint8 -> 3 x h x w float, 0..255, bilinear and antialiased."""
        size = ResizeShortestEdge.get_output_shape(*image.shape[1:], self.short_edge, self.long_edge)
        size = [max(1, side) for side in size]
        return F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]

    def _batch(self, images: list[Tensor]) -> ImageList:
        normalised = [(image - self.pixel_mean) / self.pixel_std for image in images]
        return ImageList.from_tensors(normalised, self.backbone.size_divisibility)


def resnet50(weights: str, norm: str = "FrozenBN", freeze_at: int = 2) -> ResNet:
    """ResNet-50 as torchvision's (strides in the 3 x 3 convolutions), giving `res2` .. `res5`.

    Args:
        weights: ImageNet weights in torchvision's format: a state dict as `.pth` (such as `resnet50-0676ba61.pth` of
            download.pytorch.org) or `.safetensors`. "random": none.
        norm: Detectron2's name of a normalisation; "FrozenBN" keeps the statistics of the weights.
        freeze_at: 1 freezes the stem, 2 also `res2`; 0 nothing.

    Raises:
        InputError: a file that is missing, unreadable or of another network.
    """
    stem = BasicStem(in_channels=3, out_channels=64, norm=norm)
    stages = ResNet.make_default_stages(50, stride_in_1x1=False, norm=norm)
    model = ResNet(stem, stages, out_features=_STAGES)
    if weights != "random":
        state = from_torchvision(read_checkpoint(weights))
        # Frozen batch norms are buffers, whose versions' counters torchvision adds: left out on both sides.
        expected = {name: value for name, value in model.state_dict().items() if not name.endswith("batches_tracked")}
        check_fit(state, expected, str(weights))
        model.load_state_dict(state, strict=False)
    return model.freeze(freeze_at)


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames a state dict of torchvision's ResNet to Detectron2's; the classifier is left out.

    `conv1`, `bn1` are the stem, `layer1` .. `layer4` are `res2` .. `res5`, `downsample.0` and `.1` the shortcut and its
    norm, and `bn2` of a block is the norm of its `conv2`.
    """
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "fc" or parts[-1] == "num_batches_tracked":
            continue
        if parts[0].startswith("layer"):
            prefix = [f"res{int(parts[0].removeprefix('layer')) + 1}", parts[1]]
            parts = parts[2:]
        else:
            prefix = ["stem"]
        if parts[0] == "downsample":
            middle = ["shortcut"] if parts[1] == "0" else ["shortcut", "norm"]
        else:
            middle = [parts[0]] if parts[0].startswith("conv") else [parts[0].replace("bn", "conv"), "norm"]
        renamed[".".join([*prefix, *middle, parts[-1]])] = value
    return renamed
