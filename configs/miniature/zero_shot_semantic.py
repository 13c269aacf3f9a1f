"""Semantic segmentation of OV-Shapes by text alone: what a tower's dense map knows, and the floor for what is trained.

    python tools/train_net.py --config-file configs/miniature/zero_shot_semantic.py --eval-only

| other                     | overrides                                                 |
|---------------------------|-----------------------------------------------------------|
| CLIPSelf's tower          | clip.pretrained=output/clipself_patches/tower.safetensors |
| finer maps                | model.finer=2                                             |
| MaskCLIP's denoising      | model.denoise=0.3                                         |
| PACL's score of the image | model.scoring=patch_weighted                              |

CLIP's temperature is its own logit scale, 20.
"""

from clipself_d2.miniature import MODEL, TEMPLATES, WEIGHTS

from ..common.train import train
from ..common.zero_shot_semantic import clip, dataloader, lr_multiplier, model, optimizer

clip.update(name=MODEL, pretrained=WEIGHTS)
model.update(size=128, temperature=20.0)
model.vocabulary.text.update(templates=list(TEMPLATES), synonyms="mean")
dataloader.test.update(dataset="ov_shapes_val_semantic", num_workers=0, batch_size=10)
