"""Runs that train nothing: a table over made-up settings, and a runner that writes made-up results."""

import json
from pathlib import Path

from PIL import Image

from reproduction.plan import Job
from reproduction.tables import TOWER, Row, Run, Table

CONFIG = """
from detectron2.config import LazyCall as L
from torch.optim import AdamW
from clipself_d2.clip import build_image_tower
from clipself_d2.distillation import CLIPSelf
from clipself_d2.engine.optim import param_groups, warmup_cosine

clip = dict(name="{model}", pretrained=None)
{export}
model = L(CLIPSelf)(tower=L(build_image_tower)(name="${{clip.name}}", pretrained="${{clip.pretrained}}"),
                    student_size=64, teacher_size=32, alpha=0.5)
optimizer = L(AdamW)(params=L(param_groups)(weight_decay=0.1), lr=0.05)
lr_multiplier = L(warmup_cosine)(max_iter="${{train.max_iter}}")
dataloader = dict(
    train=dict(dataset="fake_images", mapper=dict(regions=dict(json_file="")), total_batch_size=2),
    test=dict(dataset="fake_images"),
    evaluator=dict(output_dir="${{train.output_dir}}"),
)
train = dict(max_iter=10, device="cpu")
"""


def write_config(folder: Path, model: str = "ViT-B-16", name: str = "fake", exports: bool = True) -> str:
    """A config that `Run` takes by its absolute path; one that exports nothing stands for a detector's."""
    path = folder / f"{name}.py"
    path.write_text(CONFIG.format(model=model, export="export = dict(to='tower')" if exports else ""))
    return str(path)


def make_table(config: str, figure: str = "") -> Table:
    """Two trainings, the tower that they start from, and the second one's tower at another size."""
    small, large = (Run(config, (f"model.alpha={alpha}",)) for alpha in (0.25, 1))
    columns = {"boxes top-1": "boxes.top1", "crops top-1": "crops.top1"}
    rows = (
        Row("untouched", Run(config).before(), (1.0, None), series="before", x=32),
        Row("small", small, (20.0, None), "tiny", series="before", x=64),
        Row("large", large, (30.0, None), "huge", series="after", x=64),
        Row("large, 32 pixels", large.after("model.student_size=32"), metrics=("boxes.top1", ""), series="level"),
    )
    return Table("X", "miniature", "A made-up table", "alpha", columns, rows, "A note.", figure)


class FakeRunner:
    """Writes the results of a job: boxes 100 * alpha for a training, else 0.5; fails where it is told to.

    Of a detector: AP50 of the novel classes 40 on a tower of CLIPSelf, else 10.
    """

    def __init__(self, fail_at: float | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.jobs: list[Job] = []
        self.fail_at, self.error = fail_at, error

    def __call__(self, job: Job) -> None:
        for source in job.sources.values():
            assert source.product.is_file()
        alpha = float(job.config.model.get("alpha", 0))
        if alpha == self.fail_at:
            raise self.error("it broke")
        self.jobs.append(job)
        boxes = 100 * alpha if job.run.trains else 0.5
        results = {"boxes": {"top1": boxes, "top5": 99.0}, "crops": {"top1": 60.0, "top5": 90.0}}
        results["bbox"] = {"AP50_novel": 40.0 if TOWER in job.sources else 10.0, "AP50_base": 50.0, "AP50_all": 45.0}
        if job.results or job.run.trains:
            (job.folder / "results.json").write_text(json.dumps(results))
        if job.product and job.product.suffix == ".png":
            Image.new("RGB", (8, 8)).save(job.product)
        elif job.product:
            job.product.write_text(f"of {job.folder.name}")
