"""configs/miniature/panoptic.py with the masks of the ground truth, named by CLIP only: what the scores can reach.

    python tools/train_net.py --config-file configs/miniature/panoptic_ground_truth.py --eval-only

| value       | here               |
|-------------|--------------------|
| alpha, beta | 1, 1               |
"""

from detectron2.config import LazyCall as L

from clipself_d2.panoptic import GroundTruthMasks

from .panoptic import clip, dataloader, model, train

model.update(generator=L(GroundTruthMasks)(), alpha=1.0, beta=1.0)
train.output_dir = "output/miniature_panoptic_ground_truth"
