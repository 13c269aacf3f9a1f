"""Transfer of the F-ViT of OV-LVIS to other data sets: EVA-02-CLIP L/14 after CLIPSelf on image patches.

Table 4 of the paper. The detector is that of fvit_eva02_l14_336_ovlvis.py on the tower of CLIPSelf; without further
overrides it is evaluated on COCO.

    python tools/train_net.py --config-file configs/detection/fvit_eva02_l14_336_transfer.py --eval-only

| data set        | AP   | AP50 | AP75 | small | medium | large | dataloader.test.dataset |
|-----------------|------|------|------|-------|--------|-------|-------------------------|
| COCO            | 40.5 | 63.8 | 44.3 | 26.8  | 44.6   | 53.8  | coco_2017_val           |
| Objects365 v1   | 19.5 | 31.3 | 20.7 | 9.7   | 23.2   | 35.5  | objects365_v1_val       |
| Objects365 v2   |      |      |      |       |        |       | objects365_v2_val       |
| Pascal VOC 2007 |      |      |      |       |        |       | voc_2007_test           |

The last is in the released code, without a number in the paper. All but COCO have other weights of CLIP:
model.roi_heads.alpha=0.3 model.roi_heads.beta=0.3.

| value              | paper                      | released code                | here                       |
|--------------------|----------------------------|------------------------------|----------------------------|
| detector           | OV-LVIS, CLIPSelf, patches | OV-LVIS, CLIPSelf, patches   | train.init_checkpoint=FILE |
| mask head          | -                          | removed                      | removed                    |
| temperature        | -                          | 50, not the learned one      | as released                |
| CLIP's T           | -                          | 120                          | as released                |
| alpha, all classes | -                          | 0.2 (COCO), 0.3 (the others) | as released                |
| detections         | -                          | score > 1e-4, NMS 0.5, 300   | as released                |

AP counts 100 detections per image and the other columns all 300, as mmdet does; see evaluation.TransferEvaluator.
"""

from detectron2.config import LazyCall as L

from clipself_d2.evaluation import TransferEvaluator

from .fvit_eva02_l14_336_ovlvis import clip, dataloader, lr_multiplier, model, optimizer, shape, train

clip.pretrained = "output/clipself_eva02_l14_336_lvis_patches/tower.safetensors"
del dataloader.train  # --eval-only
model.roi_heads.update(mask_head=None, alpha=0.2, beta=0.2, clip_temperature=120.0)
model.roi_heads.classifier.fixed_temperature = 50.0
dataloader.test.dataset = "coco_2017_val"
dataloader.evaluator = L(TransferEvaluator)(dataset_name="${dataloader.test.dataset}", output_dir="${train.output_dir}")
train.update(
    init_checkpoint="output/fvit_eva02_l14_336_ovlvis_clipself_patches/checkpoint_0075168.pth",
    init_without=["roi_heads.mask_head."],
)
