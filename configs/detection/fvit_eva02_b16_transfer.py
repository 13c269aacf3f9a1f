"""Transfer of the F-ViT of OV-LVIS to other data sets: EVA-02-CLIP B/16 after CLIPSelf on image patches.

Table 4 of the paper, whose numbers of B/16 are not known here. Data sets, their overrides, and the values beside the
released code's are in fvit_eva02_l14_336_transfer.py; the detector is that of fvit_eva02_b16_ovlvis.py.

    python tools/train_net.py --config-file configs/detection/fvit_eva02_b16_transfer.py --eval-only
"""

from ..common.detection import shape as _base_shape
from .fvit_eva02_l14_336_transfer import clip, dataloader, lr_multiplier, model, optimizer, shape, train

clip.update(name="EVA02-B-16", pretrained="output/clipself_eva02_b16_lvis_patches/tower.safetensors")
shape.update(_base_shape)
model.size = 1024
train.init_checkpoint = "output/fvit_eva02_b16_ovlvis_clipself_patches/checkpoint_0075168.pth"
