"""ODISE's masks (caption model), on COCO panoptic, named by OpenAI CLIP L/14, 336 px.

Table 6 of the paper; mAP and mIoU are of the fused scores:

| data set, tower   | PQ, CLIP only | PQ, fused | mAP  | mIoU |
|-------------------|---------------|-----------|------|------|
| COCO, untouched   | 27.6          | 45.3      | 38.1 | 52.3 |
| COCO, CLIPSelf    | 35.1          | 45.7      |      |      |
| ADE20K, untouched | 15.3          | 22.9      | 13.4 | 28.5 |
| ADE20K, CLIPSelf  | 19.5          | 23.7      | 13.6 | 30.1 |

    python tools/train_net.py --config-file configs/panoptic/odise_caption_openai_l14_336_coco.py --eval-only
    python tools/train_net.py --config-file configs/panoptic/odise_caption_openai_l14_336_coco.py --eval-only \\
        clip.pretrained=output/clipself_openai_l14_336_coco_patches/tower.safetensors
    python tools/train_net.py --config-file configs/panoptic/odise_caption_openai_l14_336_coco.py --eval-only \\
        dataloader.test.dataset=ade20k_val_panoptic_ov model.generator.folder=output/masks/odise_caption_ade20k

The overrides of every row, and the values beside the published ones, are in ../common/panoptic.py.
"""

from ..common.panoptic import clip, dataloader, ground_truth, lr_multiplier, model, optimizer
from ..common.train import train

model.update(fusion="odise", alpha=0.35, beta=0.65)
model.vocabulary.text.templates = "photo"
model.generator.folder = "output/masks/odise_caption_coco"
