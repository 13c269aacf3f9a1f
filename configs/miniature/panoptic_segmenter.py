"""The panoptic segmenter that ships: masks and their names on the tower that CLIPSelf made of the shipped CLIP.

    clipself predict scene.png --words "red star, blue heart, lawn" --config-file miniature/panoptic_segmenter
    python tools/train_net.py --config-file configs/miniature/panoptic_segmenter.py --eval-only

Unlike in panoptic.py, the mask generator stands on the tower that names the masks; tools/ship_miniature.py wrote its
weights.
"""

from clipself_d2.miniature import CLIPSELF_WEIGHTS, PANOPTIC_SEGMENTER

from .panoptic import clip, dataloader, ground_truth, lr_multiplier, model, optimizer, train

clip.pretrained = CLIPSELF_WEIGHTS
model.generator = model.generator.model
model.generator.backbone.tower.update(name="${clip.name}", pretrained="${clip.pretrained}")
train.init_checkpoint = PANOPTIC_SEGMENTER
