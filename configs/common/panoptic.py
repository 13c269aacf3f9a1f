"""Open-vocabulary panoptic segmentation on COCO: any mask generator, named by OpenAI CLIP L/14's dense map too."""

from detectron2.config import LazyCall as L

from clipself_d2.clip import build_image_tower, build_text_tower
from clipself_d2.data import PanopticMapper, build_test_loader
from clipself_d2.engine.config import on_device
from clipself_d2.evaluation import OpenVocabularyPanopticEvaluator
from clipself_d2.panoptic import (
    GroundTruthMasks,
    OpenVocabularyPanoptic,
    SavedMasks,
    TransformersMasks,
    dataset_things,
    panoptic_vocabulary,
)
from clipself_d2.vocabulary import TextClassifier, label_set

from .optim import lr_multiplier, optimizer  # nothing is trained, but every config has these sections

clip = dict(name="ViT-L-14-336-quickgelu", pretrained="openai")

# Where else the masks may come from.
mask2former = L(TransformersMasks)(
    name="facebook/mask2former-swin-large-coco-panoptic",
    text="${model.vocabulary.text}",
    classes=L(label_set)(name="coco_panoptic"),
)
ground_truth = L(GroundTruthMasks)()

model = L(OpenVocabularyPanoptic)(
    generator=L(SavedMasks)(folder="", text="${model.vocabulary.text}"),
    tower=L(build_image_tower)(name="${clip.name}", pretrained="${clip.pretrained}"),
    vocabulary=L(panoptic_vocabulary)(
        dataset="${dataloader.test.dataset}",
        text=L(TextClassifier)(
            tower=L(on_device)(
                module=L(build_text_tower)(name="${clip.name}", pretrained="${clip.pretrained}"),
                device="${train.device}",
            ),
            templates="vild",
            synonyms="max",
        ),
    ),
    isthing=L(dataset_things)(dataset="${dataloader.test.dataset}"),
    size=672,
    fusion="fcclip",
    alpha=0.4,
    beta=0.8,
    temperature=100.0,
    mask_resize="bilinear",
    object_threshold=0.0,
    overlap_threshold=0.8,
    topk=100,
)

dataloader = dict(
    test=L(build_test_loader)(dataset="coco_2017_val_panoptic_ov", mapper=L(PanopticMapper)(), num_workers=4),
    evaluator=L(OpenVocabularyPanopticEvaluator)(
        dataset_name="${dataloader.test.dataset}", output_dir="${train.output_dir}"
    ),
)
