"""FC-CLIP's masks on COCO panoptic, named by OpenAI CLIP L/14, 336 px.

    python tools/train_net.py --config-file configs/panoptic/fcclip_openai_l14_336_coco.py --eval-only

The masks are read from output/masks/fcclip_coco; docs/panoptic.md says how to save them there.

| scores         | overrides                                                  |
|----------------|------------------------------------------------------------|
| fused          | none                                                       |
| CLIP only      | model.alpha=1 model.beta=1                                 |
| predicted only | model.alpha=0 model.beta=0                                 |

| value              | published    | here                |
|--------------------|--------------|---------------------|
| alpha, beta        | 0.4, 0.8     | 0.4, 0.8            |
| prompts            | 14 of ViLD's | ViLD's 63           |
| image size of CLIP | -            | 672, its CLIPSelf's |
"""

from ..common.panoptic import clip, dataloader, lr_multiplier, model, optimizer
from ..common.train import train

model.generator.folder = "output/masks/fcclip_coco"
train.output_dir = "output/fcclip_openai_l14_336_coco"
