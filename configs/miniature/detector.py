"""The detector that ships: F-ViT on the tower that CLIPSelf made of the shipped CLIP, in half precision.

    clipself predict scene.png --words "red star, blue heart, green square"
    python tools/train_net.py --config-file configs/miniature/detector.py --eval-only

It is the last row of table 3a in the miniature; tools/ship_miniature.py wrote its weights.
"""

from clipself_d2.miniature import CLIPSELF_WEIGHTS, DETECTOR

from .fvit import clip, dataloader, lr_multiplier, model, optimizer, shape, train

clip.pretrained = CLIPSELF_WEIGHTS
del dataloader.train
train.init_checkpoint = DETECTOR
