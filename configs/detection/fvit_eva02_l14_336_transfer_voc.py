"""Transfer to Pascal VOC 2007 of the F-ViT of OV-LVIS: EVA-02-CLIP L/14 after CLIPSelf on patches.

The released code has it, the paper no number.

    python tools/train_net.py --config-file configs/detection/fvit_eva02_l14_336_ovlvis_clipself_patches.py
    python tools/train_net.py --config-file configs/detection/fvit_eva02_l14_336_transfer_voc.py --eval-only

| value              | paper                      | released code              | here                       |
|--------------------|----------------------------|----------------------------|----------------------------|
| detector           | OV-LVIS, CLIPSelf, patches | OV-LVIS, CLIPSelf, patches | train.init_checkpoint=FILE |
| mask head          | -                          | removed                    | removed                    |
| temperature        | -                          | 50, not the learned one    | as released                |
| CLIP's T           | -                          | 120                        | as released                |
| alpha, all classes | -                          | 0.3                        | as released                |
| detections         | -                          | score > 1e-4, NMS 0.5, 300 | as released                |
"""

from .fvit_eva02_l14_336_transfer_coco import clip, dataloader, lr_multiplier, model, optimizer, shape, train

model.vocabulary.dataset = "voc_2007_test"
model.roi_heads.update(alpha=0.3, beta=0.3)
dataloader.test.dataset = "voc_2007_test"
train.output_dir = "output/fvit_eva02_l14_336_transfer_voc"
