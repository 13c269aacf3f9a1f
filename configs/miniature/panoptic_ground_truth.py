"""configs/miniature/panoptic.py with the masks of the ground truth: what CLIP's scores reach where every mask is right.

    python tools/train_net.py --config-file configs/miniature/panoptic_ground_truth.py --eval-only

| value       | here |
|-------------|------|
| alpha, beta | 1, 1 |
"""

from ..common.panoptic import ground_truth as _ground_truth
from .panoptic import clip, dataloader, lr_multiplier, model, optimizer, train

model.update(generator=_ground_truth, alpha=1.0, beta=1.0)
train.output_dir = "output/miniature_panoptic_ground_truth"
