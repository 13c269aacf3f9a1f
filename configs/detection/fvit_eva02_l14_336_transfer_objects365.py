"""Transfer to Objects365 of the F-ViT of OV-LVIS, with another vocabulary: EVA-02-CLIP L/14 after CLIPSelf on patches.

Table 4: AP 19.5, AP50 31.3, AP75 20.7, small 9.7, medium 23.2, large 35.5.

    python tools/train_net.py --config-file configs/detection/fvit_eva02_l14_336_ovlvis_clipself_patches.py
    python tools/train_net.py --config-file configs/detection/fvit_eva02_l14_336_transfer_objects365.py --eval-only

| value              | paper                      | released code              | here                       |
|--------------------|----------------------------|----------------------------|----------------------------|
| detector           | OV-LVIS, CLIPSelf, patches | OV-LVIS, CLIPSelf, patches | train.init_checkpoint=FILE |
| mask head          | -                          | removed                    | removed                    |
| temperature        | -                          | 50, not the learned one    | as released                |
| CLIP's T           | -                          | 120                        | as released                |
| alpha, all classes | -                          | 0.3                        | as released                |
| detections         | -                          | score > 1e-4, NMS 0.5, 300 | as released                |

The paper's are Objects365 v1's classes and photographs. For v2's: model.vocabulary.dataset=objects365_v2_val
dataloader.test.dataset=objects365_v2_val.
"""

from .fvit_eva02_l14_336_transfer_coco import clip, dataloader, lr_multiplier, model, optimizer, shape, train

model.vocabulary.dataset = "objects365_v1_val"
model.roi_heads.update(alpha=0.3, beta=0.3)
dataloader.test.dataset = "objects365_v1_val"
train.output_dir = "output/fvit_eva02_l14_336_transfer_objects365"
