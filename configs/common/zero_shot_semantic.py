"""Semantic segmentation by text alone (MaskCLIP) on ADE20K, 150 classes: nothing is trained."""

from detectron2.config import LazyCall as L

from clipself_d2.clip import build_image_tower, build_text_tower
from clipself_d2.data import PanopticMapper, build_test_loader
from clipself_d2.data.vocabulary import panoptic_vocabulary
from clipself_d2.engine.config import on_device
from clipself_d2.evaluation import OpenVocabularyPanopticEvaluator
from clipself_d2.semantic import ZeroShotSegmenter
from clipself_d2.vocabulary import TextClassifier

from .optim import lr_multiplier, optimizer  # nothing is trained, but every config has these sections

clip = dict(name="ViT-B-16-quickgelu", pretrained="openai")

model = L(ZeroShotSegmenter)(
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
    size=1024,
    dense_mode="no_attn",
    temperature=100.0,
    finer=1,
    scoring="cell",
    patch_temperature=1.0,
    denoise=0.0,
    background_threshold=0.0,
    background_class=None,
    skip_padding=True,
    labels_only=True,
)

dataloader = dict(
    test=L(build_test_loader)(dataset="ade20k_150_val_sem_seg", mapper=L(PanopticMapper)(), num_workers=4),
    evaluator=L(OpenVocabularyPanopticEvaluator)(
        dataset_name="${dataloader.test.dataset}", output_dir="${train.output_dir}"
    ),
)
