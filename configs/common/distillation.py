"""CLIPSelf with image patches on COCO photographs, measured by region classification on COCO panoptic."""

from detectron2.config import LazyCall as L

from clipself_d2.clip import build_image_tower, build_text_tower
from clipself_d2.data import DistillationMapper, PanopticRegionMapper, build_test_loader, build_train_loader
from clipself_d2.distillation import CLIPExporter, CLIPSelf, open_teacher_cache
from clipself_d2.engine.config import on_device
from clipself_d2.evaluation import RegionClassificationEvaluator
from clipself_d2.regions import GridRegions
from clipself_d2.vocabulary import TextClassifier

clip = dict(name="EVA02-B-16", pretrained="merged2b_s8b_b131k")

model = L(CLIPSelf)(
    tower=L(build_image_tower)(name="${clip.name}", pretrained="${clip.pretrained}"),
    student_size=1024,
    teacher_size=224,
    trainable_blocks=12,
    alpha=0.7,
    activation_checkpointing="${train.activation_checkpointing}",
    # Off without a folder. All patches of COCO are 45 GB with B/16 and 67 with L/14; 50 proposals an image 6 and 9.
    teacher_cache=L(open_teacher_cache)(folder=None, budget_gb=50.0),
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
