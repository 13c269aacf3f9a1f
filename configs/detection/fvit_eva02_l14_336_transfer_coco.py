"""Transfer to COCO of the F-ViT of OV-LVIS, with another vocabulary: EVA-02-CLIP L/14 after CLIPSelf on image patches.

Table 4: AP 40.5, AP50 63.8, AP75 44.3, small 26.8, medium 44.6, large 53.8.

    python tools/train_net.py --config-file configs/detection/fvit_eva02_l14_336_ovlvis_clipself_patches.py
    python tools/train_net.py --config-file configs/detection/fvit_eva02_l14_336_transfer_coco.py --eval-only

| value              | paper                      | released code              | here                       |
|--------------------|----------------------------|----------------------------|----------------------------|
| detector           | OV-LVIS, CLIPSelf, patches | OV-LVIS, CLIPSelf, patches | train.init_checkpoint=FILE |
| mask head          | -                          | removed                    | removed                    |
| temperature        | -                          | 50, not the learned one    | as released                |
| CLIP's T           | -                          | 120                        | as released                |
| alpha, all classes | -                          | 0.2                        | as released                |
| detections         | -                          | score > 1e-4, NMS 0.5, 300 | as released                |

AP counts 100 detections an image and the other columns all 300, as mmdet does; see evaluation.TransferEvaluator.
"""

from detectron2.config import LazyCall as L

from clipself_d2.evaluation import TransferEvaluator

from .fvit_eva02_l14_336_ovlvis_clipself_patches import clip, dataloader, lr_multiplier, model, optimizer, shape, train

del dataloader.train  # --eval-only
model.vocabulary.dataset = "coco_2017_val"
model.roi_heads.update(mask_head=None, alpha=0.2, beta=0.2, clip_temperature=120.0)
model.roi_heads.classifier.fixed_temperature = 50.0
dataloader.test.dataset = "coco_2017_val"
dataloader.evaluator = L(TransferEvaluator)(dataset_name="${dataloader.test.dataset}", output_dir="${train.output_dir}")
train.update(
    output_dir="output/fvit_eva02_l14_336_transfer_coco",
    init_checkpoint="output/fvit_eva02_l14_336_ovlvis_clipself_patches/checkpoint_0075168.pth",
    init_without=["roi_heads.mask_head."],
)
