"""The semantic segmenter that ships: CAT-Seg on the tower that CLIPSelf made of the shipped CLIP.

    clipself predict scene.png --words "red star, blue heart, lawn" --config-file miniature/semantic_segmenter
    python tools/train_net.py --config-file configs/miniature/semantic_segmenter.py --eval-only

It is the CLIPSelf row of table 5 in the miniature, on proposals; tools/ship_miniature.py wrote its weights.
"""

from clipself_d2.miniature import CLIPSELF_WEIGHTS, SEMANTIC_SEGMENTER

from .cat_seg import clip, dataloader, lr_multiplier, model, optimizer, shape, train

clip.pretrained = CLIPSELF_WEIGHTS
del dataloader.train
model.vocabulary.dataset = "${dataloader.test.dataset}"
train.init_checkpoint = SEMANTIC_SEGMENTER
