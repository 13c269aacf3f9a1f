"""Open-vocabulary panoptic segmentation of OV-Shapes: the miniature of the paper's Table 6.

    python tools/train_net.py --config-file configs/miniature/panoptic_masks.py        # learns to find masks, once
    python tools/train_net.py --config-file configs/miniature/panoptic.py --eval-only

| scores           | overrides                                                    |
|------------------|--------------------------------------------------------------|
| fused, FC-CLIP's | none: model.alpha=0.4 model.beta=0.8                         |
| CLIP only        | model.alpha=1 model.beta=1                                   |
| predicted only   | model.alpha=0 model.beta=0                                   |
| CLIPSelf's tower | clip.pretrained=output/clipself_patches/tower.safetensors    |
| on true masks    | model.generator='${ground_truth}' model.alpha=1 model.beta=1 |

CLIP's temperature is its own logit scale, 20. Masks are pooled by area: the small ones may miss all middles of cells.

A trained one ships: panoptic_segmenter.py.
"""

from detectron2.config import LazyCall as L

from clipself_d2.miniature import MODEL, TEMPLATES, WEIGHTS
from clipself_d2.miniature.solo_masks import trained_masks

from ..common.panoptic import clip, dataloader, ground_truth, lr_multiplier, model, optimizer
from ..common.train import train
from .panoptic_masks import model as _masks

_masks.vocabulary = "${model.vocabulary}"
clip.update(name=MODEL, pretrained=WEIGHTS)
model.generator = L(trained_masks)(model=_masks, checkpoint="output/panoptic_masks/checkpoint_0000200.pth")
model.update(size=128, temperature=20.0, mask_resize="area")
model.vocabulary.text.update(templates=list(TEMPLATES), synonyms="mean")
dataloader.test.update(dataset="ov_shapes_val_panoptic", num_workers=0, batch_size=10)
