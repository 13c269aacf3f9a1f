from dataclasses import replace

import pytest
from detectron2.data import MetadataCatalog

from clipself_d2.errors import InputError
from clipself_d2.reproduce.needs import missing
from clipself_d2.reproduce.plan import Planner
from clipself_d2.reproduce.table import Row, Run, Table
from tests.reproduce.fake import write_config


def gaps(jobs):
    return missing(need for job in jobs for need in job.needs)


def folders(table, output, *overrides, **options):
    return [job.folder.name for job in Planner(output, overrides, **options).jobs(table)]


def test_a_tower_is_trained_before_it_is_evaluated(tmp_path, photographs):
    training = Run(write_config(tmp_path))
    rows = (Row("after", training.ensembled_weights(), ("boxes.top1",)), Row("training", training, ("boxes.top1",)))
    first, second = Planner(tmp_path).jobs(Table("X", "paper", "", "", ("boxes",), rows))
    assert (first.run, second.run) == (training, training.ensembled_weights())
    assert second.config.clip.pretrained == str(first.folder / "tower.safetensors")
    assert (first.tower, second.tower) == (first.folder / "tower.safetensors", second.config.clip.pretrained)


def test_rows_of_one_run_share_it(tmp_path, photographs):
    run = Run(write_config(tmp_path))
    rows = tuple(Row(label, run.untouched(), ("boxes.top1",)) for label in "ab")
    assert len(Planner(tmp_path).jobs(Table("X", "paper", "", "", ("boxes",), rows))) == 1


def test_folders_follow_the_numbers_and_nothing_else(tmp_path, table):
    plain = folders(table, tmp_path)
    assert len(set(plain)) == 4
    assert folders(table, tmp_path / "elsewhere", "train.device=cpu", num_gpus=4) == plain
    assert folders(table, tmp_path, device="cuda") == plain
    changed = folders(table, tmp_path, "train.seed=1")
    assert not set(plain) & set(changed)
    # The number of steps changes the trainings and what is made of them, not the evaluation of the untouched tower.
    assert [a == b for a, b in zip(plain, folders(table, tmp_path, "train.max_iter=3"), strict=True)] == [
        True, False, False, False
    ]  # fmt: skip


def test_folders_follow_the_content_of_the_weights(tmp_path, table):
    weights = tmp_path / "weights.pt"
    names = []
    for content in ("one", "two", "one"):
        weights.write_text(content)
        names.append(folders(table, tmp_path, f"clip.pretrained={weights}"))
    assert names[0] == names[2] != names[1]


def test_overrides_of_the_user_win_but_for_the_tower_under_test(tmp_path, table):
    untouched, small, _, other_size = Planner(tmp_path, ["clip.pretrained=openai", "train.max_iter=3"]).jobs(table)
    assert untouched.config.clip.pretrained == small.config.clip.pretrained == "openai"
    assert other_size.config.clip.pretrained.endswith("tower.safetensors")
    assert small.config.train.max_iter == 3


def test_an_override_that_makes_rows_equal(tmp_path, table):
    with pytest.raises(InputError, match=r"model.alpha=1: rows 'small' and 'large' of table X would be the same run"):
        Planner(tmp_path, ["model.alpha=1"]).jobs(table)


def test_an_unknown_override(tmp_path, table):
    with pytest.raises(InputError, match=r"model.alhpa: unknown config key.*alpha"):
        Planner(tmp_path, ["model.alhpa=1"]).jobs(table)


def test_needs(tmp_path, table, photographs):
    jobs = Planner(tmp_path, ["clip.pretrained=openai"]).jobs(table)
    assert gaps(jobs) == []
    assert "weights: ViT-B-16, open_clip's 'openai', downloaded at the first use" in [n.what for n in jobs[1].needs]
    assert jobs[3].needs[0].what == f"weights: the tower of {jobs[2].folder}"
    [made] = [need for need in jobs[3].needs if need.what.startswith("weights")]
    assert not made.missing
    photographs.rmdir()
    jobs = Planner(tmp_path, ["clip.pretrained=no.pt"]).jobs(table)
    weights, data = gaps(jobs)
    assert weights == "weights: ViT-B-16, no.pt: no such file, and no tag of open_clip's"
    assert data.startswith(f"data set fake_images: {photographs}: not there; see datasets/README.md")


def test_needs_of_other_data_sets(tmp_path, table):
    train = Planner(tmp_path, ["dataloader.train.dataset=nowhere"]).jobs(table)
    assert gaps(train) == ["data set nowhere: not registered; see datasets/README.md for the names"]
    proposals = tmp_path / "proposals.json"
    config = tmp_path / "fake.py"
    config.write_text(config.read_text().replace('json_file=""', f'json_file="{proposals}"'))
    [gap] = gaps(Planner(tmp_path).jobs(table))
    assert gap.startswith(f"the regions: {proposals}: not there")
    proposals.touch()
    assert gaps(Planner(tmp_path).jobs(table)) == []


def test_label_folders_are_needed_too(tmp_path, table, photographs, monkeypatch):
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))
    labels = tmp_path / "labels"
    MetadataCatalog.get("fake_images").set(sem_seg_root=str(labels))
    [gap] = gaps(Planner(tmp_path).jobs(table))
    assert gap.startswith(f"data set fake_images: {labels}: not there")
    labels.mkdir()
    assert gaps(Planner(tmp_path).jobs(table)) == []


def test_a_file_counts_by_its_content_not_by_its_place(tmp_path, table):
    config, before = tmp_path / "fake.py", (tmp_path / "fake.py").read_text()
    digests = []
    for name, content in (("a.json", "1"), ("b.json", "1"), ("b.json", "2")):
        (tmp_path / name).write_text(content)
        config.write_text(before.replace('json_file=""', f'json_file="{tmp_path / name}"'))
        digests.append(Planner(tmp_path).jobs(table)[1].digest)
    assert digests[0] == digests[1] != digests[2]


def test_training_costs_by_steps_and_pixels(tmp_path, table):
    untouched, small, *_ = Planner(tmp_path).jobs(table)
    assert small.cost == (10 + 30) * 64**2
    assert Planner(tmp_path, ["model.student_size=128"]).jobs(table)[1].cost == 4 * small.cost
    assert untouched.cost == 30 * 64**2


def chained(tmp_path):
    """A detector, its proposals, a tower that is distilled on them, the detector on that tower, and its evaluation."""
    config = write_config(tmp_path, name="detector", exports=False)
    detector = Run(config)
    proposals = detector.proposing("fake_images")
    tower = Run(write_config(tmp_path), regions=proposals)
    better = Run(config, tower=tower)
    return detector, proposals, tower, better, Run(config, trains=False, model=better)


def test_what_a_run_takes_from_another(tmp_path, photographs):
    planner = Planner(tmp_path, ["train.seed=3"], num_gpus=2)
    detector, proposals, tower, better, evaluation = (planner.job(run) for run in chained(tmp_path))
    assert detector.product == detector.folder / "checkpoint_0000010.pth"
    assert detector.arguments[2:5] == ("--resume", "--num-gpus", "2")

    assert proposals.tool.name == "make_proposals.py"
    assert proposals.product == proposals.folder / "proposals.json"
    arguments = list(proposals.arguments)
    options = dict(zip(arguments[:8:2], arguments[1:8:2], strict=True))
    assert options.pop("--config-file").endswith("detector.py")
    assert options == {
        "--weights": str(detector.product), "--dataset": "fake_images", "--output": str(proposals.product)
    }  # fmt: skip
    assert arguments[8:] == ["train.seed=3", f"train.output_dir={proposals.folder}"]

    assert tower.config.dataloader.train.mapper.regions.json_file == str(proposals.product)
    assert tower.product == tower.folder / "tower.safetensors"
    assert better.config.clip.pretrained == str(tower.product)
    assert evaluation.config.clip.pretrained == str(tower.product)
    assert evaluation.config.train.init_checkpoint == str(better.product)
    assert evaluation.arguments[2] == "--eval-only"
    assert evaluation.product is None
    assert [need.what for need in evaluation.needs[:2]] == [
        f"weights: the tower of {tower.folder}", f"the model of {better.folder}"
    ]  # fmt: skip
    assert f"the regions of {proposals.folder}" in [need.what for need in tower.needs]
    assert not any(need.missing for job in (detector, proposals, tower, better, evaluation) for need in job.needs)


def test_a_digest_is_of_all_that_was_before(tmp_path, photographs):
    runs = chained(tmp_path)
    first, second = ([Planner(tmp_path / folder).job(run).digest for run in runs] for folder in "ab")
    assert first == second
    assert len(set(first)) == 5
    other = Planner(tmp_path, ["train.max_iter=11"])
    assert not set(first) & {other.job(run).digest for run in runs}


def test_a_digest_is_of_the_model_and_of_what_was_trained(tmp_path, photographs):
    detector = chained(tmp_path)[0]
    evaluations = detector.evaluated(), detector.evaluated("model.alpha=0.1"), detector.evaluated("train.seed=1")
    assert len({Planner(tmp_path).job(run).digest for run in evaluations}) == 3


def test_a_data_set_that_is_made_needs_no_files(tmp_path, table, photographs):
    photographs.rmdir()
    MetadataCatalog.get("fake_images").made_at_first_use = True
    assert gaps(Planner(tmp_path).jobs(table)) == []


def test_a_probe_compares_the_tower_with_the_one_it_started_from(tmp_path, photographs):
    weights = tmp_path / "weights.pt"
    weights.write_text("one")
    training = Run(write_config(tmp_path), (f"clip.pretrained={weights}",))
    planner = Planner(tmp_path / "out", device="cpu")
    job, trained = planner.job(training.probed("fake_images")), planner.job(training)
    options = list(job.arguments)
    assert options[:6] == ["--name", "ViT-B-16", "--pretrained", str(weights), str(trained.product), "--labels"]
    assert options[-6:] == ["--dataset", "fake_images", "--output", str(job.folder), "--device", "cpu"]
    assert (job.product, job.judged) == (job.folder / "coherence.png", True)
    assert [need.missing for need in job.needs] == ["", "", ""]
    weights.write_text("two")
    assert Planner(tmp_path / "out").job(training.probed("fake_images")).digest != job.digest


def test_pairs_are_made_of_proposals(tmp_path, photographs):
    config = write_config(tmp_path)
    proposals = Run(write_config(tmp_path, name="detector", exports=False)).proposing("fake_images")
    planner = Planner(tmp_path / "out", ["train.max_iter=3"])
    pairs, training = (
        planner.job(run) for run in (proposals.pairing(config), Run(config, regions=proposals.pairing(config)))
    )
    made = planner.job(proposals)
    assert (pairs.tool.name, pairs.product.name, pairs.judged) == ("make_region_text.py", "pairs.json", False)
    assert list(pairs.arguments) == [
        "--proposals", str(made.product), "--name", "ViT-B-16", "--pretrained", "random",
        "--dataset", "fake_images", "--output", str(pairs.product), "--device", "cpu",
    ]  # fmt: skip
    assert training.config.dataloader.train.mapper.regions.json_file == str(pairs.product)
    captions = tmp_path / "captions.json"
    MetadataCatalog.get("fake_images").captions_json = str(captions)
    [gap] = gaps([planner.job(replace(proposals.pairing(config), overrides=("train.seed=1",)))])
    assert gap.startswith(f"data set fake_images: {captions}: not there")
