"""CLIPSelf on LVIS v1 photographs with image patches: OpenAI CLIP B/16, which is not in the paper.

| value        | paper | released code | here                          |
|--------------|-------|---------------|-------------------------------|
| photographs  | -     | -             | all 100,170 of the train json |
| batch, steps | -     | -             | 16, 37,566                    |

All else, and how to train as the release did, is as in clipself_openai_b16_coco_patches.py.
"""

from .clipself_openai_b16_coco_patches import clip, dataloader, export, lr_multiplier, model, optimizer, train

dataloader.train.dataset = "lvis_v1_train_images"
train.update(output_dir="output/clipself_openai_b16_lvis_patches", max_iter=37_566, eval_period=6_261)
