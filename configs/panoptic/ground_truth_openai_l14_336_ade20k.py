"""The ground truth's masks on ADE20K, named by OpenAI CLIP L/14, 336 px.

    python tools/train_net.py --config-file configs/panoptic/ground_truth_openai_l14_336_ade20k.py --eval-only

CLIP only: what its scores reach where every mask is right.

| value              | published | here                |
|--------------------|-----------|---------------------|
| alpha, beta        | -         | 1, 1                |
| image size of CLIP | -         | 672, its CLIPSelf's |
"""

from ..common.panoptic import clip, dataloader, lr_multiplier, model, optimizer
from ..common.panoptic import ground_truth as _ground_truth
from ..common.train import train

dataloader.test.dataset = "ade20k_val_panoptic_ov"
model.update(generator=_ground_truth, alpha=1.0, beta=1.0)
train.output_dir = "output/ground_truth_openai_l14_336_ade20k"
