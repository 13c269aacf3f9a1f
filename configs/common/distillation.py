"""CLIPSelf on COCO images with image patches, measured by region classification on COCO panoptic.

Values that differ between towers are in the tower's file. "Author" is an answer in the released code's issue 25.

| value                  | paper                     | released code                   | here                         |
|------------------------|---------------------------|---------------------------------|------------------------------|
| student size, EVA-02   | 1024 (B/16), 896 (L/14)   | as the paper                    | as the paper                 |
| student size, OpenAI   | -                         | 672 for L/14 (author)           | 1024 (B/16), 672 (L/14)      |
| letterbox padding      | -                         | read too                        | skipped (model.skip_padding) |
| teacher crop           | 224 (B/16), 336 (L/14)    | as the paper                    | the tower's native size      |
| trained blocks, EVA-02 | all                       | all                             | all                          |
| trained blocks, OpenAI | -                         | last 6 or 12 of L/14 (author)   | all of B/16, last 12 of L/14 |
| alpha                  | not mentioned             | 0.7 (B/16), 0.95 (L/14)         | as released, for OpenAI too  |
| grid                   | m, n in 1..6, independent | 24 pairs, ceil(m/2) <= n <= 2m  | released; regions.rule=paper |
| regions per image      | -                         | up to 20                        | up to 20                     |
| batch, steps on COCO   | 16, 6 epochs              | 2 on each of 8 GPUs, 44,358     | 16, 44,358                   |
| images, steps on LVIS  | LVIS v1                   | 100,170 of the json, 37,566     | 100,170 of the json, 37,566  |
| gradients over GPUs    | averaged                  | not averaged (see below)        | averaged                     |
| AdamW betas, eps       | -                         | EVA-02 0.9, 0.999, 1e-8; OpenAI | as released                  |
|                        |                           | 0.9, 0.98, 1e-6                 |                              |
| lr, weight decay       | 1e-5, 0.1                 | 1e-5, 0.1                       | 1e-5, 0.1                    |
| warm-up, schedule      | -                         | 1,000 steps, cosine to 0        | 1,000 steps, cosine to 0     |
| precision              | -                         | fp16 autocast                   | bf16 autocast                |

With proposals instead of patches:

| value                   | paper    | released code                  | here        |
|-------------------------|----------|--------------------------------|-------------|
| student box             | proposal | proposal                       | as released |
| teacher crop            | -        | box enlarged 1.5 x, clipped    | as released |
| proposals per image     | -        | 20 at random, then size filter | as released |
| size filter             | -        | 8^2 .. 1024^2 pixels           | as released |
| image without proposals | -        | top-left quarter of its sides  | as released |

The paper's proposals are those of an RPN that was trained on the 48 base classes of OV-COCO; how they were made is not
released. tools/make_proposals.py writes such a file; any COCO-format json of boxes will do, whatever their scores and
classes: proposals.json_file=FILE.

In the released code every GPU trains a copy of its own, because the loss bypasses DistributedDataParallel, and rank 0's
copy is saved: in effect one process with batches of 2 for 44,358 steps. To reproduce that, pass
dataloader.train.total_batch_size=2 with --num-gpus 1.

A row of the paper's tables is the tower's file with these overrides:

| row             | overrides                                                                                 |
|-----------------|-------------------------------------------------------------------------------------------|
| COCO, patches   | none                                                                                      |
| COCO, proposals | dataloader.train.mapper.regions='${proposals}'                                            |
| LVIS, patches   | dataloader.train.dataset=lvis_v1_train_images train.max_iter=37566 train.eval_period=6261 |
| LVIS, proposals | those of both, proposals.json_file=FILE; neither paper nor released code has this row     |

They write to the same folder unless train.output_dir=output/NAME gives each its own.
"""

from detectron2.config import LazyCall as L

from clipself_d2.clip import build_image_tower, build_text_tower
from clipself_d2.data import DistillationMapper, PanopticRegionMapper, build_test_loader, build_train_loader
from clipself_d2.distillation import (
    CLIPExporter,
    CLIPSelf,
    CorrelationLoss,
    TimmGuide,
    TowerGuide,
    open_teacher_cache,
)
from clipself_d2.engine.config import on_device
from clipself_d2.evaluation import RegionClassificationEvaluator
from clipself_d2.regions import GridRegions, ProposalRegions
from clipself_d2.vocabulary import TextClassifier

clip = dict(name="EVA02-B-16", pretrained="merged2b_s8b_b131k")

model = L(CLIPSelf)(
    tower=L(build_image_tower)(name="${clip.name}", pretrained="${clip.pretrained}"),
    student_size=1024,
    alpha=0.7,
    activation_checkpointing="${train.activation_checkpointing}",
    # Off without a folder. All patches of COCO take 44 GB with B/16 and 66 with L/14; 50 proposals per image 6 and 9.
    teacher_cache=L(open_teacher_cache)(folder=None, budget_gb=50.0),
)

# The other regions: dataloader.train.mapper.regions='${proposals}'.
proposals = L(ProposalRegions)(
    json_file="${oc.env:DETECTRON2_DATASETS,datasets}/coco/coco_proposals.json",
    max_regions=20,
    min_size=8,
    max_size=1024,
    crop_scale=1.5,
)

# Successors of CLIPSelf: model.correlation='${correlations.declip}'; docs/distillation.md has what goes with each.
correlations = dict(
    guide=L(TimmGuide)(name="vit_base_patch14_dinov2.lvd142m", size=560),
    declip=L(CorrelationLoss)(guide="${correlations.guide}", weight=0.1, of="queries"),
    denserc=L(CorrelationLoss)(guide="${correlations.guide}", weight=0.025),
    spatial=L(CorrelationLoss)(guide=L(TowerGuide)(tower="${model.tower}"), weight=0.1, temperature=0.1),
)

export = L(CLIPExporter)(name="${clip.name}", pretrained="${clip.pretrained}")

dataloader = dict(
    train=L(build_train_loader)(
        dataset="coco_2017_train_images",
        mapper=L(DistillationMapper)(regions=L(GridRegions)(max_split=6, rule="released", max_regions=20)),
        total_batch_size=16,
        seed="${train.seed}",
        num_workers=4,
    ),
    test=L(build_test_loader)(
        dataset="coco_2017_val_panoptic_regions",
        mapper=L(PanopticRegionMapper)(),
        num_workers=4,
    ),
    evaluator=L(RegionClassificationEvaluator)(
        dataset_name="${dataloader.test.dataset}",
        text=L(TextClassifier)(
            tower=L(on_device)(
                module=L(build_text_tower)(name="${clip.name}", pretrained="${clip.pretrained}"),
                device="${train.device}",
            ),
        ),
        output_dir="${train.output_dir}",
    ),
)
