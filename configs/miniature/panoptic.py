"""Open-vocabulary panoptic segmentation of OV-Shapes: the miniature of the paper's Table 6.

    python tools/train_net.py --config-file configs/miniature/panoptic_masks.py          # finds the masks; once
    python tools/train_net.py --config-file configs/miniature/panoptic.py --eval-only

| scores          | overrides                                                           |
|-----------------|---------------------------------------------------------------------|
| fused, FC-CLIP  | none: model.alpha=0.4 model.beta=0.8                                |
| CLIP only       | model.alpha=1 model.beta=1                                          |
| predicted only  | model.alpha=0 model.beta=0                                          |
| CLIPSelf's tower| clip.pretrained=output/miniature_clipself_patches/tower.safetensors |
"""

from detectron2.config import LazyCall as L

from clipself_d2.clip import build_image_tower
from clipself_d2.data import PanopticMapper, build_test_loader
from clipself_d2.evaluation import OpenVocabularyPanopticEvaluator
from clipself_d2.panoptic import OpenVocabularyPanoptic, dataset_things, panoptic_vocabulary, trained_masks

from ..common.train import train
from .panoptic_masks import clip, text
from .panoptic_masks import model as kernel_masks

data = "ov_shapes_val_panoptic"
model = L(OpenVocabularyPanoptic)(
    generator=L(trained_masks)(model=kernel_masks, checkpoint="output/miniature_panoptic_masks/checkpoint_0000400.pth"),
    tower=L(build_image_tower)(name="${clip.name}", pretrained="${clip.pretrained}"),
    vocabulary=L(panoptic_vocabulary)(dataset=data, text=text),
    isthing=L(dataset_things)(dataset=data),
    size=128,
    fusion="fcclip",
    alpha=0.4,
    beta=0.8,
    temperature=100.0,
    mask_resize="area",
)
dataloader = dict(
    test=L(build_test_loader)(dataset=data, mapper=L(PanopticMapper)(), num_workers=0, batch_size=10),
    evaluator=L(OpenVocabularyPanopticEvaluator)(dataset_name=data, output_dir="${train.output_dir}"),
)
train.output_dir = "output/miniature_panoptic"
