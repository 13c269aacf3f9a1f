"""Every entry, at both scales: that its commands fit the tool and the configs, and its numbers the paper's."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog

from clipself_d2.clip.dense_modes import DENSE_MODES
from clipself_d2.engine.config import load_config
from clipself_d2.engine.main import parse_args
from clipself_d2.errors import InputError
from reproduction import shared
from reproduction.catalog import ENTRIES, SCALES, find, names
from reproduction.figures import FIGURES
from reproduction.miniature import ABLATION_STEPS, MASKS, PATCHES
from reproduction.needs import needs
from reproduction.plan import Planner
from reproduction.tables import CHECKPOINT, MASK_GENERATOR, PAIRS_FILE, PROPOSALS_FILE, TOWER

TABLES = [(name, scale) for scale in SCALES for name in names(scale)]
TOOLS = Path(__file__).parents[2] / "tools"
SIDES = {"EVA02-L-14-336": 14, "ViT-L-14-336-quickgelu": 14, "RN50x4": 32}


@pytest.fixture(scope="module")
def planner(tmp_path_factory) -> Planner:
    return Planner(tmp_path_factory.mktemp("an output's folder"), device="cpu", num_gpus=2)


@pytest.mark.parametrize(("name", "scale"), TABLES)
def test_commands_are_what_the_tool_and_the_configs_take(name, scale, planner):
    table = find(name, scale)
    jobs = planner.jobs(table)
    assert {job.digest for job in jobs} >= {planner.job(row.run).digest for row in table.rows}
    for job in jobs:
        python, tool, *arguments = shlex.split(job.command)
        assert python == "python"
        assert Path(tool).resolve() == TOOLS / f"{job.run.tool}.py"
        if job.run.tool != "train_net":
            check_tool(tool, arguments, job)
            continue
        args = parse_args(arguments)
        assert args.resume is job.run.trains
        assert args.eval_only is not job.run.trains
        assert args.num_gpus == 2
        config = load_config(args.config_file, args.opts)
        assert Path(config.train.output_dir) == job.folder
        assert config.train.device == "cpu"
        if MASK_GENERATOR in job.sources:
            generator = job.sources[MASK_GENERATOR]
            steps = generator.config.train.max_iter
            assert Path(config.model.generator.checkpoint) == generator.folder / f"checkpoint_{steps:07d}.pth"
        if TOWER in job.sources:
            assert Path(config.clip.pretrained) == job.sources[TOWER].folder / "tower.safetensors"
        if "clip" in config:
            assert config.model.get("student_size", config.model.get("size")) % SIDES.get(config.clip.name, 8) == 0


def check_tool(tool, arguments, job):
    names = runpy.run_path(tool)  # a door to a command has only its main
    parse = names.get("parse_args") or sys.modules[names["main"].__module__].parse_args
    read = [source.product for key, source in job.sources.items() if key.startswith("--")]
    for file in read:  # which other jobs write
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    args = parse(arguments)
    for file in read:
        file.unlink()
    assert args.output == (job.folder if job.results else job.product)
    assert args.dataset in DatasetCatalog
    if job.run.tool == "make_proposals":
        assert Path(args.weights) == job.sources["--weights"].product
        load_config(args.config_file, args.opts)
        return
    assert (args.clip, args.device) == (job.config.clip.name, "cpu")
    if job.run.tool == "make_region_text":
        assert args.proposals == job.sources["--proposals"].product
        assert args.pretrained == job.config.clip.pretrained
    else:
        assert args.pretrained == [job.config.clip.pretrained, str(job.sources["--pretrained"].product)]
        assert args.labels == ["original", "CLIPSelf"]
        assert args.size == job.sources["--pretrained"].config.model.student_size


@pytest.mark.parametrize(("name", "scale"), TABLES)
def test_metrics_exist_and_figures_are_known(name, scale):
    table = find(name, scale)
    assert (table.name, table.scale) == (name, scale)
    assert table.figure in ("", *FIGURES)
    tasks = {f"{task}.top{k}" for task in ("boxes", "thing_masks", "stuff_masks", "crops") for k in (1, 5)}
    tasks |= {f"bbox.AP50_{group}" for group in ("novel", "base", "all")} | {"bbox.AP_novel", "bbox.AP_base"}
    tasks |= {f"bbox.{name}" for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")}
    tasks |= {f"segm.{name}" for name in ("AP", "APr", "APc", "APf")}
    tasks |= {"panoptic.PQ", "panoptic.PQ_seen", "panoptic.PQ_novel"}
    tasks |= {f"sem_seg.{name}" for name in ("mIoU", "mACC", "mIoU_seen", "mIoU_novel")}
    kinds = [f"{tower}, {mode}" for tower in ("original", "CLIPSelf") for mode in ("no_attn", "full")]
    tasks |= {f"auc.{kind}.{relation}" for kind in kinds for relation in ("object", "class", "class_across")}
    assert all(set(table.metrics(row)) <= {*tasks, ""} for row in table.rows)
    assert len({row.label for row in table.rows}) == len(table.rows)
    assert ("laboratory" in table.note or "not the paper's values" in table.note) is (scale == "miniature")


@pytest.mark.parametrize(("name", "steps"), [("1a", ABLATION_STEPS), ("1b", 850), ("1c", ABLATION_STEPS)])
def test_rows_of_an_ablation_differ_in_one_value_and_have_the_same_steps(name, steps, planner):
    jobs = planner.jobs(find(name, "miniature"))
    assert {job.config.train.max_iter for job in jobs} == {steps}
    keys = [{override.partition("=")[0] for override in job.run.overrides} - {"train.max_iter"} for job in jobs]
    assert {job.run.config for job in jobs} <= {"miniature/clipself_patches.py", "miniature/image_text.py"}
    assert len(set.union(*keys)) == 1
    assert {job.config.train.max_iter for job in planner.jobs(find(name, "paper"))} == {44_358}


def test_numbers_of_the_paper_beside_the_miniature_s():
    def numbers(name):
        return {row.label: row.paper[0] for row in find(name, "miniature").rows if row.paper}

    assert numbers("1a") == {"4": 71.3, "6": 72.1, "8": 71.6, "10": 70.0}
    assert list(numbers("1c").values()) == [46.5, 67.1, 72.1, 52.3]
    assert numbers("5") == {"CAT-Seg, original": 27.2, "CAT-Seg, CLIPSelf": 29.0}
    assert list(numbers("7").values()) == [18.2, 71.1, 74.0]


def test_the_paper_s_best_rows_are_one_run(planner):
    """Equal configs are one run, in whichever tables they appear."""
    best = [
        (table, label) for table, label in (("1a", "6"), ("1b", "12"), ("1c", "1024"), ("2", "EVA-02 B/16: patches"))
    ]
    rows = [next(row for row in find(table, "paper").rows if row.label == label) for table, label in best]
    assert len({planner.job(row.run).folder for row in rows}) == 1


@pytest.mark.parametrize("name", ["2", "3a", "4", "A2", "A3", "A4", "A6"])
def test_configs_state_the_numbers_of_their_rows(name):
    for row in find(name, "paper").rows:
        text = (Path(__file__).parents[2] / "configs" / row.run.config).read_text()
        assert all(re.search(rf"\b{number}\b", text) for number in row.paper if number is not None)


def test_the_chain_of_the_miniature_s_proposals(planner):
    """A detector on the tower as it is proposes what CLIPSelf distils on; the next detector stands on the result."""
    table = find("3a", "miniature")
    original, patches, proposals = (planner.job(row.run) for row in table.rows)
    tower = proposals.sources[TOWER]
    assert tower.config.dataloader.train.mapper.regions.json_file == str(tower.sources[PROPOSALS_FILE].product)
    assert tower.sources[PROPOSALS_FILE].sources["--weights"] is original
    assert patches.sources[TOWER].run.config == "miniature/clipself_patches.py"
    assert {original.run.config, patches.run.config, proposals.run.config} == {"miniature/fvit.py"}
    assert [row.key for row in table.rows] == ["original", "clipself_patches", "clipself_proposals"]
    assert list(table.columns) == ["novel", "base", "all"]
    assert proposals in planner.jobs(find("A5", "miniature"))
    assert tower in planner.jobs(find("2", "miniature"))


@pytest.mark.parametrize("scale", SCALES)
def test_region_text_and_clipself_are_trained_on_the_same_proposals(planner, scale):
    rows = {row.label.rpartition(": ")[2]: planner.job(row.run) for row in find("7", scale).rows[:3]}
    pairs = rows["region-text"].sources[PAIRS_FILE]
    assert (pairs.run.tool, pairs.product.name) == ("make_region_text", "pairs.json")
    assert rows["region-text"].config.dataloader.train.mapper.regions.json_file == str(pairs.product)
    assert pairs.sources["--proposals"] is rows["CLIPSelf"].sources[PROPOSALS_FILE]
    assert rows["region-text"].config.clip == rows["CLIPSelf"].config.clip
    settings = [(job.config.train.max_iter, job.config.model.student_size) for job in rows.values()]
    assert len(set(settings)) == 1
    if scale == "miniature":
        captions = [what for what in needs(pairs) if "ov_shapes_train_images" in what]
    else:
        captions = [what for what in needs(pairs) if "captions_train2017.json" in what]
    assert captions


def test_table_5_varies_method_and_tower(planner):
    jobs = {row.key: planner.job(row.run) for row in find("5", "miniature").rows}
    distilled = planner.job(PATCHES)
    assert {key: (job.run.trains, job.sources.get(TOWER)) for key, job in jobs.items()} == {
        "zero_shot_original": (False, None),
        "zero_shot_clipself": (False, distilled),
        "cat_seg_original": (True, None),
        "cat_seg_clipself": (True, distilled),
    }
    assert {job.config.dataloader.test.dataset for job in jobs.values()} == {"ov_shapes_val_semantic"}


def test_table_5_trains_once_for_three_data_sets(planner):
    jobs = [planner.job(row.run) for row in find("5", "paper").rows]
    trained = {job.digest if job.run.trains else job.sources[CHECKPOINT].digest for job in jobs}
    assert (len(jobs), len(trained)) == (12, 4)
    names = [name for name in ("ade20k_150", "ade20k_847", "pascal_context_59") for _ in range(2)]
    assert [job.config.dataloader.test.dataset for job in jobs] == [f"{name}_val_sem_seg" for name in names] * 2
    clipself = jobs[3]
    assert clipself.sources[TOWER].run.config == "distillation/clipself_openai_b16_coco_patches.py"
    assert clipself.config.train.init_checkpoint == str(clipself.sources[CHECKPOINT].product)


def test_coherence_compares_towers_in_one_run_and_ways_in_several(planner):
    table = find("coherence", "miniature")
    coherence, segmentation = table.rows[:4], table.rows[4:]
    [probe] = {planner.job(row.run).folder for row in coherence}
    assert probe.name.startswith("clipself_patches-coherence-")
    assert {row.metrics[:3] for row in coherence} == {
        tuple(f"auc.{tower}, {mode}.{relation}" for relation in ("object", "class", "class_across"))
        for tower in ("original", "CLIPSelf")
        for mode in ("no_attn", "full")
    }
    assert {row.metrics[3:] for row in segmentation} == {("sem_seg.mIoU", "sem_seg.mACC")}
    assert len({planner.job(row.run).digest for row in segmentation}) == len(segmentation) == 8
    changed = Planner(planner.output, ["model.student_size=96"])
    assert changed.job(coherence[0].run).folder != probe


def test_dense_modes_are_compared_on_the_same_two_towers(planner):
    rows = find("dense-modes", "miniature").rows
    assert {*shared.DENSE_MODES, "proxyclip"} == set(DENSE_MODES)
    assert len(rows) == 4 * len(DENSE_MODES)
    jobs = [planner.job(row.run) for row in rows]
    for row, job in zip(rows, jobs, strict=True):
        assert (TOWER in job.sources) == row.label.endswith("CLIPSelf")
        assert row.label.split(", ")[1] == job.config.model.get("dense_mode", "no_attn")
        assert ("guide" in job.config.model.tower) == ("proxyclip" in row.label)
    guide = instantiate(jobs[-1].config.model.tower.guide)
    assert (guide.tower.num_blocks, guide.block) == (6, 3)
    guided = [planner.job(row.run) for row in find("dense-modes", "paper").rows if "proxyclip" in row.label]
    assert all("guide: timm's vit_base_patch8_224.dino, downloaded at the first use" in needs(job) for job in guided)
    default = planner.job(find("2", "miniature").rows[0].run)
    assert jobs[0].folder == default.folder  # no_attn is the config's own: nothing runs twice


@pytest.mark.parametrize("scale", SCALES)
def test_successors_are_read_in_the_mode_that_they_train(planner, scale):
    rows = {tuple(row.label.rpartition(": ")[2].split(", ")): row for row in find("successors", scale).rows}
    jobs = {key: planner.job(row.run) for key, row in rows.items()}
    objectives = {"CLIPSelf": "no_attn", "R-SC": "no_attn", "DeCLIP": "declip", "DenseRC": "values"}
    tasks = {"regions": "boxes", "F-ViT": "bbox", "segmentation": "sem_seg"}
    assert list(jobs) == [(task, objective) for task in tasks for objective in ("original", *objectives)]
    assert all(any(place.startswith(tasks[task]) for place in row.metrics) for (task, _), row in rows.items())
    weights = {"R-SC": 0.1, "DeCLIP": 0.1, "DenseRC": 0.025}
    for objective, mode in objectives.items():
        distilled, detector, segmenter = (jobs[task, objective] for task in tasks)
        assert detector.sources[TOWER] is segmenter.sources[TOWER] is distilled
        assert detector.config.model.backbone.get("dense_mode", "no_attn") == mode
        assert segmenter.config.model.dense_mode == distilled.config.model.get("dense_mode", "no_attn") == mode
        correlation = distilled.config.model.get("correlation")
        assert (correlation and correlation.weight) == weights.get(objective)
        guides = [what for what in needs(distilled) if what.startswith("guide: timm's vit_base_patch14_dinov2")]
        assert len(guides) == (scale == "paper" and objective in ("DeCLIP", "DenseRC"))
    trained = [jobs["regions", objective].config for objective in objectives]
    assert len({(each.train.max_iter, each.model.student_size, each.clip.name) for each in trained}) == 1
    shared_runs = {job.digest for name in ("2", "3a") for job in planner.jobs(find(name, scale))}
    same = {key for key, job in jobs.items() if job.digest in shared_runs}
    assert same == {(task, tower) for task in ("regions", "F-ViT") for tower in ("original", "CLIPSelf")}


@pytest.mark.parametrize("scale", SCALES)
def test_equal_runs_have_one_folder(planner, scale):
    """Else what one command has finished, another runs again."""
    jobs = [job for name in names(scale) for job in planner.jobs(find(name, scale))]
    assert len({job.folder for job in jobs}) == len({job.digest for job in jobs})


def test_the_designs_of_the_miniature_s_detector_build(planner):
    designs = {}
    for job in planner.jobs(find("A3", "miniature"))[1:]:
        config = job.config.copy()
        config.clip.pretrained = None
        backbone = instantiate(config.model.backbone)
        config.optimizer.params.model = torch.nn.ModuleDict({"backbone": backbone})
        rates = {group["lr"] / config.optimizer.lr for group in instantiate(config.optimizer).param_groups}
        design = (type(backbone.pyramid).__name__, len(set(backbone.blocks)), *sorted(rates))
        designs[design] = backbone.trainable
    levels = len(job.config.model.backbone.blocks)
    assert levels > 1
    assert designs == {
        ("SimplePyramid", 1, 1.0): False,
        ("FPNPyramid", 1, 1.0): False,
        ("FPNPyramid", levels, 1.0): False,
        ("FPNPyramid", levels, 0.01, 1.0): True,
        ("FPNPyramid", levels, 0.1, 1.0): True,
    }


def test_table_6_varies_scores_and_tower(planner):
    table = find("6", "miniature")
    jobs = {row.key: planner.job(row.run) for row in table.rows}
    weights = {key: (job.config.model.alpha, job.config.model.beta) for key, job in jobs.items()}
    assert weights == {
        "predicted_only": (0, 0),
        "clip_only_original": (1, 1),
        "clip_only_clipself": (1, 1),
        "fused_original": (0.4, 0.8),
        "fused_clipself": (0.4, 0.8),
        "true_masks_original": (1, 1),
        "true_masks_clipself": (1, 1),
    }
    distilled = planner.job(PATCHES)
    assert {key: job.sources.get(TOWER) for key, job in jobs.items() if "clipself" in key} == dict.fromkeys(
        ("clip_only_clipself", "fused_clipself", "true_masks_clipself"), distilled
    )
    # One generator, on the untouched tower, finds the masks of all rows but the last two.
    (generator,) = {job.sources[MASK_GENERATOR].digest for key, job in jobs.items() if "true" not in key}
    assert not planner.job(MASKS).sources
    assert planner.job(MASKS).digest == generator
    trained = [job for job in planner.jobs(table) if job.run.trains]
    assert {job.digest for job in trained} == {distilled.digest, generator}


def test_table_6_at_the_scale_of_the_paper(planner):
    table = find("6", "paper")
    fused = planner.job(next(row.run for row in table.rows if row.label == "ADE20K: fused, CLIPSelf"))
    assert (fused.config.model.fusion, fused.config.model.alpha, fused.config.model.beta) == ("odise", 0.35, 0.65)
    assert fused.config.dataloader.test.dataset == "ade20k_val_panoptic_ov"
    assert fused.sources[TOWER].run.config == "distillation/clipself_openai_l14_336_coco_patches.py"
    assert all(row.run.overrides or "fused" in row.label or "true" in row.label for row in table.rows)


@pytest.mark.parametrize("scale", SCALES)
def test_only_table_6_has_rows_above_ones_without_a_number(scale):
    above = {(name, row.label, row.above) for name in names(scale) for row in find(name, scale).rows if row.above}
    prefixes = ("",) if scale == "miniature" else ("COCO: ", "ADE20K: ")
    assert above == {("6", f"{data}fused, original", f"{data}predicted only") for data in prefixes}


@pytest.mark.parametrize("alias", ["A1fig", "fig3", "3"])
def test_aliases(alias):
    table = find(alias, "miniature")
    assert (table.name, table.heading) == ("fig3", "Figure 3 (miniature): Accuracy over the size of the input")
    assert find("a1", "paper").name == "A1"
    assert find("4", "paper").heading.startswith("Table 4 (paper): Transfer")


def test_tables_without_a_miniature_say_so():
    with pytest.raises(InputError, match=r"table 4 has no miniature \(.*fig4\): add --scale paper"):
        find("4", "miniature")
    assert set(names("paper")) == set(ENTRIES)


def test_unknown_names():
    with pytest.raises(InputError, match=r"table '9' is unknown: known are 1a, 1b, 1c, .*, successors, or all"):
        find("9", "paper")
    with pytest.raises(InputError, match="scale 'huge' is unknown: use one of miniature, paper"):
        find("2", "huge")
