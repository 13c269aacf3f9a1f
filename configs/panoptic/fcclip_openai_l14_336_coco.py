"""FC-CLIP's masks, on COCO panoptic, named by OpenAI CLIP L/14, 336 px.

    python tools/train_net.py --config-file configs/panoptic/fcclip_openai_l14_336_coco.py --eval-only
    python tools/train_net.py --config-file configs/panoptic/fcclip_openai_l14_336_coco.py --eval-only \\
        clip.pretrained=output/clipself_openai_l14_336_coco_patches/tower.safetensors
    python tools/train_net.py --config-file configs/panoptic/fcclip_openai_l14_336_coco.py --eval-only \\
        dataloader.test.dataset=ade20k_val_panoptic_ov model.generator.folder=output/masks/fcclip_ade20k

The overrides of every row, and the values beside the published ones, are in ../common/panoptic.py.
"""

from ..common.panoptic import clip, dataloader, ground_truth, lr_multiplier, model, optimizer
from ..common.train import train

model.generator.folder = "output/masks/fcclip_coco"
