"""Mask2Former's masks (Swin-L), on COCO panoptic, named by OpenAI CLIP L/14, 336 px.

The masks' network must be in the local cache of the Hugging Face hub, or pass model.generator.download=true.

    python tools/train_net.py --config-file configs/panoptic/mask2former_openai_l14_336_coco.py --eval-only
    python tools/train_net.py --config-file configs/panoptic/mask2former_openai_l14_336_coco.py --eval-only \\
        clip.pretrained=output/clipself_openai_l14_336_coco_patches/tower.safetensors
    python tools/train_net.py --config-file configs/panoptic/mask2former_openai_l14_336_coco.py --eval-only \\
        dataloader.test.dataset=ade20k_val_panoptic_ov

The overrides of every row, and the values beside the published ones, are in ../common/panoptic.py.
"""

from ..common.panoptic import clip, dataloader, ground_truth, lr_multiplier, model, optimizer
from ..common.panoptic import mask2former as _mask2former
from ..common.train import train

model.generator = _mask2former
