"""ODISE's masks (label model) on COCO panoptic, named by OpenAI CLIP L/14, 336 px.

    python tools/train_net.py --config-file configs/panoptic/odise_label_openai_l14_336_coco.py --eval-only

The masks are read from output/masks/odise_label_coco; docs/panoptic.md says how to save them there.

| scores         | overrides                                                  |
|----------------|------------------------------------------------------------|
| fused          | none                                                       |
| CLIP only      | model.alpha=1 model.beta=1                                 |
| predicted only | model.alpha=0 model.beta=0                                 |

| value              | published          | here                |
|--------------------|--------------------|---------------------|
| alpha, beta        | 0.3, 0.7           | 0.3, 0.7            |
| prompts            | "a photo of a {}." | "a photo of a {}."  |
| image size of CLIP | -                  | 672, its CLIPSelf's |
"""

from ..common.panoptic import clip, dataloader, lr_multiplier, model, optimizer
from ..common.train import train

model.update(fusion="odise", alpha=0.3, beta=0.7)
model.vocabulary.text.templates = "photo"
model.generator.folder = "output/masks/odise_label_coco"
train.output_dir = "output/odise_label_openai_l14_336_coco"
