"""Mask2Former's masks (Swin-L) on COCO panoptic, named by EVA-02-CLIP L/14, 336 px.

    python tools/train_net.py --config-file configs/panoptic/mask2former_eva02_l14_336_coco.py --eval-only

The masks' network must be in the local cache of the Hugging Face hub, or pass model.generator.download=true.

| scores         | overrides                                                  |
|----------------|------------------------------------------------------------|
| fused          | none                                                       |
| CLIP only      | model.alpha=1 model.beta=1                                 |
| predicted only | model.alpha=0 model.beta=0                                 |

| value              | published           | here                |
|--------------------|---------------------|---------------------|
| alpha, beta        | FC-CLIP's: 0.4, 0.8 | 0.4, 0.8            |
| image size of CLIP | -                   | 896, its CLIPSelf's |
"""

from ..common.panoptic import clip, dataloader, lr_multiplier, model, optimizer
from ..common.panoptic import mask2former as _mask2former
from ..common.train import train

clip.update(name="EVA02-L-14-336", pretrained="merged2b_s6b_b61k")
model.update(size=896, generator=_mask2former)
train.output_dir = "output/mask2former_eva02_l14_336_coco"
