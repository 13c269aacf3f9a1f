"""Open-vocabulary panoptic segmentation on COCO: any mask generator, named by OpenAI CLIP L/14's dense map too.

The mask generators have a file each. The paper's table 6 has the masks of ODISE's caption model; how it trains CLIPSelf
on OpenAI's models, and the size of CLIP's input, are not published.

| scores                      | overrides                                                                          |
|-----------------------------|------------------------------------------------------------------------------------|
| fused                       | none                                                                               |
| CLIP only                   | model.alpha=1 model.beta=1                                                         |
| predicted only              | model.alpha=0 model.beta=0                                                         |
| CLIP only on the true masks | model.generator='${ground_truth}' model.alpha=1 model.beta=1 (with FC-CLIP's file) |
| the tower of CLIPSelf       | clip.pretrained=output/clipself_openai_l14_336_coco_patches/tower.safetensors      |
| on ADE20K                   | dataloader.test.dataset=ade20k_val_panoptic_ov model.generator.folder=FOLDER       |
| EVA-02-CLIP L/14, 336 px    | clip.name=EVA02-L-14-336 clip.pretrained=merged2b_s6b_b61k model.size=896          |

Saved masks lie in output/masks/GENERATOR_coco and output/masks/GENERATOR_ade20k; docs/panoptic.md says how to save them
there.

| value              | ODISE caption, label | FC-CLIP      | Mask2Former (none published) | here                |
|--------------------|----------------------|--------------|------------------------------|---------------------|
| alpha, beta        | 0.35, 0.65; 0.3, 0.7 | 0.4, 0.8     | FC-CLIP's: 0.4, 0.8          | as published        |
| prompts            | "a photo of a {}."   | 14 of ViLD's | -                            | ODISE's; ViLD's 63  |
| image size of CLIP | -                    | -            | -                            | its CLIPSelf's: 672 |
"""

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

# Where else the masks may come from: model.generator='${ground_truth}'.
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
    labels_only=True,
)

dataloader = dict(
    test=L(build_test_loader)(dataset="coco_2017_val_panoptic_ov", mapper=L(PanopticMapper)(), num_workers=4),
    evaluator=L(OpenVocabularyPanopticEvaluator)(
        dataset_name="${dataloader.test.dataset}", output_dir="${train.output_dir}"
    ),
)
