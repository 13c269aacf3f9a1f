"""CLIPSelf on LVIS v1 photographs with image patches: EVA-02-CLIP B/16.

The backbone of the paper's OV-LVIS detector.

| value        | paper   | released code                 | here                          |
|--------------|---------|-------------------------------|-------------------------------|
| photographs  | LVIS v1 | all 100,170 of the train json | all 100,170 of the train json |
| batch, steps | -       | 2 on each of 8 GPUs, 37,566   | 16, 37,566                    |

All else, and how to train as the release did, is as in clipself_eva02_b16_coco_patches.py.
"""

from .clipself_eva02_b16_coco_patches import clip, dataloader, export, lr_multiplier, model, optimizer, train

dataloader.train.dataset = "lvis_v1_train_images"
train.update(output_dir="output/clipself_eva02_b16_lvis_patches", max_iter=37_566, eval_period=6_261)
