"""SAM's masks, of everything in an image, named by OpenAI CLIP L/14, 336 px; nothing is published of this pair.

    clipself segment photo.jpg --words "cat, sofa" --masks facebook/sam-vit-base
    python tools/train_net.py --config-file configs/panoptic/sam_openai_l14_336_coco.py --eval-only \\
        model.generator.download=true
    clipself proposals --config-file panoptic/sam_openai_l14_336_coco --dataset coco_2017_train_images \\
        --output datasets/coco/sam_proposals.json model.generator.download=true

SAM and SAM 2 must be in the local cache of the Hugging Face hub, or pass model.generator.download=true. SAM has no
classes: CLIP's scores count alone, times the IoU that SAM predicts. Parts lie within wholes: a mask stays as long as
others leave a tenth of it. The overrides of a distilled tower and of ADE20K are in ../common/panoptic.py.

| value             | here                                                   |
|-------------------|--------------------------------------------------------|
| SAM               | facebook/sam-vit-base: model.generator.name            |
| points            | 32 x 32, as SAM's own: model.generator.points_per_side |
| predicted IoU     | >= 0.88, as SAM's own                                  |
| stability         | >= 0.95, as SAM's own                                  |
| alpha, beta       | 1, 1                                                   |
| overlap threshold | 0.1                                                    |
| mask resize       | by area: no mask vanishes                              |
"""

from detectron2.config import LazyCall as L

from clipself_d2.panoptic import SAMMasks

from ..common.panoptic import clip, dataloader, ground_truth, lr_multiplier, model, optimizer
from ..common.train import train

model.generator = L(SAMMasks)(name="facebook/sam-vit-base", points_per_side=32, min_iou=0.88, min_stability=0.95)
model.generator.download = False
model.update(alpha=1.0, beta=1.0, overlap_threshold=0.1, mask_resize="area")
