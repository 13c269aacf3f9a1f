"""ODISE's masks (caption model) on ADE20K, named by OpenAI CLIP L/14, 336 px.

Table 6, PQ: CLIP only 15.3; fused 22.9 (mAP 13.4, mIoU 28.5).

    python tools/train_net.py --config-file configs/panoptic/odise_caption_openai_l14_336_ade20k.py --eval-only

The masks are read from output/masks/odise_caption_ade20k; docs/panoptic.md says how to save them there.

| scores         | overrides                                                  |
|----------------|------------------------------------------------------------|
| fused          | none                                                       |
| CLIP only      | model.alpha=1 model.beta=1                                 |
| predicted only | model.alpha=0 model.beta=0                                 |

| value              | published          | here                |
|--------------------|--------------------|---------------------|
| alpha, beta        | 0.35, 0.65         | 0.35, 0.65          |
| prompts            | "a photo of a {}." | "a photo of a {}."  |
| image size of CLIP | -                  | 672, its CLIPSelf's |
"""

from ..common.panoptic import clip, dataloader, lr_multiplier, model, optimizer
from ..common.train import train

dataloader.test.dataset = "ade20k_val_panoptic_ov"
model.update(fusion="odise", alpha=0.35, beta=0.65)
model.vocabulary.text.templates = "photo"
model.generator.folder = "output/masks/odise_caption_ade20k"
train.output_dir = "output/odise_caption_openai_l14_336_ade20k"
