"""What region-text training has in place of CLIPSelf's model and mapper; `clipself region-text` writes its pairs."""

from detectron2.config import LazyCall as L

from clipself_d2.clip import build_image_tower, build_text_tower
from clipself_d2.data import LabeledRegionMapper, LabeledRegions
from clipself_d2.distillation import RegionText
from clipself_d2.engine.config import on_device
from clipself_d2.vocabulary import TextClassifier

model = L(RegionText)(
    tower=L(build_image_tower)(name="${clip.name}", pretrained="${clip.pretrained}"),
    nouns="${dataloader.train.mapper.regions.json_file}",
    text=L(TextClassifier)(
        tower=L(on_device)(
            module=L(build_text_tower)(name="${clip.name}", pretrained="${clip.pretrained}"), device="${train.device}"
        )
    ),
    student_size=1024,
    alpha=0.7,
    num_sampled=100,
    activation_checkpointing="${train.activation_checkpointing}",
)

mapper = L(LabeledRegionMapper)(
    regions=L(LabeledRegions)(
        json_file="${oc.env:DETECTRON2_DATASETS,datasets}/coco/coco_region_text.json", max_regions=20
    )
)
