"""Semantic segmentation of ADE20K by text alone, with EVA-02-CLIP B/16.

    python tools/train_net.py --config-file configs/semantic/zero_shot_eva02_b16_ade20k.py --eval-only

| value      | here                           |
|------------|--------------------------------|
| image size | long side 1024, its CLIPSelf's |

All else, and the overrides for other data sets and finer maps, are as in zero_shot_openai_b16_ade20k.py.
"""

from ..common.train import train
from ..common.zero_shot_semantic import clip, dataloader, lr_multiplier, model, optimizer

clip.update(name="EVA02-B-16", pretrained="merged2b_s8b_b131k")
train.output_dir = "output/zero_shot_eva02_b16_ade20k"
