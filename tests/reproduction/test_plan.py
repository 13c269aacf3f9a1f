import pytest
from detectron2.data import MetadataCatalog

from clipself_d2.errors import InputError
from reproduction.needs import check, needs
from reproduction.plan import Planner
from reproduction.tables import CHECKPOINT, PAIRS_FILE, TOWER, Row, Run, Table
from tests.reproduction.fake import write_config

COLUMNS = {"boxes": "boxes.top1"}


def gaps(jobs):
    return list(dict.fromkeys(what for job in jobs for what, there in needs(job).items() if not there))


def folders(table, output, *overrides, **options):
    return [job.folder.name for job in Planner(output, overrides, **options).jobs(table)]


def test_a_tower_is_trained_before_it_is_evaluated(tmp_path, images):
    training = Run(write_config(tmp_path))
    rows = (Row("after", training.after()), Row("training", training))
    first, second = Planner(tmp_path).jobs(Table("X", "paper", "", "", COLUMNS, rows))
    assert (first.run, second.run) == (training, training.after())
    assert second.config.clip.pretrained == str(first.folder / "tower.safetensors")


def test_rows_of_one_run_share_it(tmp_path, images):
    run = Run(write_config(tmp_path))
    rows = tuple(Row(label, run.before()) for label in "ab")
    assert len(Planner(tmp_path).jobs(Table("X", "paper", "", "", COLUMNS, rows))) == 1


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


def test_needs(tmp_path, table, images):
    jobs = Planner(tmp_path, ["clip.pretrained=openai"]).jobs(table)
    assert gaps(jobs) == []
    assert "weights: ViT-B-16, open_clip's 'openai', downloaded at the first use" in needs(jobs[1])
    assert list(needs(jobs[3])) == [f"data set fake_images: {images}"]  # its tower is made by another run
    images.rmdir()
    jobs = Planner(tmp_path, ["clip.pretrained=no.pt"]).jobs(table)
    assert gaps(jobs) == ["weights: ViT-B-16, no.pt", f"data set fake_images: {images}"]
    message = r"^weights: ViT-B-16, no.pt: not there; see datasets/README.md.* \(and 1 more: see --dry-run\)$"
    with pytest.raises(InputError, match=message):
        check(jobs)


def test_needs_of_other_data_sets(tmp_path, table):
    train = Planner(tmp_path, ["dataloader.train.dataset=nowhere"]).jobs(table)
    assert gaps(train) == ["data set nowhere, which is not registered"]
    proposals = tmp_path / "proposals.json"
    config = tmp_path / "fake.py"
    config.write_text(config.read_text().replace('json_file=""', f'json_file="{proposals}"'))
    assert gaps(Planner(tmp_path).jobs(table)) == [f"{PAIRS_FILE}: {proposals}"]
    proposals.touch()
    assert gaps(Planner(tmp_path).jobs(table)) == []


def test_label_folders_are_needed_too(tmp_path, table, images, monkeypatch):
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))
    labels = tmp_path / "labels"
    MetadataCatalog.get("fake_images").set(sem_seg_root=str(labels))
    assert gaps(Planner(tmp_path).jobs(table)) == [f"data set fake_images: {labels}"]
    labels.mkdir()
    assert gaps(Planner(tmp_path).jobs(table)) == []


def chained(tmp_path):
    """A detector, its proposals, a tower that is distilled on them, the detector on that tower, and its evaluation."""
    detector = Run(write_config(tmp_path, name="detector", exports=False))
    proposals = detector.taken_by("make_proposals", "--weights", "fake_images")
    tower = Run(write_config(tmp_path)).using(PAIRS_FILE, proposals)
    better = detector.on(tower)
    return detector, proposals, tower, better, better.evaluated()


def test_what_a_run_takes_from_another(tmp_path, images):
    planner = Planner(tmp_path, ["train.seed=3"], num_gpus=2)
    detector, proposals, tower, better, evaluation = (planner.job(run) for run in chained(tmp_path))
    assert detector.product == detector.folder / "checkpoint_0000010.pth"
    assert detector.arguments[2:5] == ["--resume", "--num-gpus", "2"]

    assert proposals.tool.name == "make_proposals.py"
    assert proposals.product == proposals.folder / "proposals.json"
    options = dict(zip(proposals.arguments[:8:2], proposals.arguments[1:8:2], strict=True))
    assert options.pop("--config-file").endswith("detector.py")
    assert options == {
        "--weights": str(detector.product), "--dataset": "fake_images", "--output": str(proposals.product)
    }  # fmt: skip
    assert proposals.arguments[8:] == ["train.seed=3", f"train.output_dir={proposals.folder}"]

    assert tower.config.dataloader.train.mapper.regions.json_file == str(proposals.product)
    assert tower.product == tower.folder / "tower.safetensors"
    assert better.config.clip.pretrained == str(tower.product)
    assert evaluation.config.clip.pretrained == str(tower.product)
    assert evaluation.config.train.init_checkpoint == str(better.product)
    assert evaluation.arguments[2] == "--eval-only"
    assert evaluation.product is None
    assert {key: job.digest for key, job in evaluation.sources.items()} == {
        TOWER: tower.digest, CHECKPOINT: better.digest
    }  # fmt: skip
    assert gaps([detector, proposals, tower, better, evaluation]) == []


def test_a_digest_is_of_all_that_was_before(tmp_path, images):
    runs = chained(tmp_path)
    first, second = ([Planner(tmp_path / folder).job(run).digest for run in runs] for folder in "ab")
    assert first == second
    assert len(set(first)) == 5
    other = Planner(tmp_path, ["train.max_iter=11"])
    assert not set(first) & {other.job(run).digest for run in runs}


def test_a_digest_is_of_the_model_and_of_what_was_trained(tmp_path, images):
    detector = chained(tmp_path)[0]
    evaluations = detector.evaluated(), detector.evaluated("model.alpha=0.1"), detector.evaluated("train.seed=1")
    assert len({Planner(tmp_path).job(run).digest for run in evaluations}) == 3


def test_a_data_set_that_is_made_needs_no_files(tmp_path, table, images):
    images.rmdir()
    MetadataCatalog.get("fake_images").made_at_first_use = True
    assert gaps(Planner(tmp_path).jobs(table)) == []


def test_a_probe_compares_the_tower_with_the_one_it_started_from(tmp_path, images):
    training = Run(write_config(tmp_path))
    planner = Planner(tmp_path / "out", device="cpu")
    job = planner.job(training.taken_by("probe_coherence", "--pretrained", "fake_images"))
    trained = planner.job(training)
    assert job.arguments[:6] == ["--clip", "ViT-B-16", "--pretrained", "null", str(trained.product), "--labels"]
    assert job.arguments[-6:] == ["--dataset", "fake_images", "--output", str(job.folder), "--device", "cpu"]
    assert (job.product, job.results) == (job.folder / "coherence.png", job.folder / "results.json")
    assert gaps([job]) == []


def test_pairs_are_made_of_proposals(tmp_path, images):
    training = Run(write_config(tmp_path))
    proposals = chained(tmp_path)[1]
    planner = Planner(tmp_path / "out", ["train.max_iter=3"])
    run = proposals.taken_by("make_region_text", "--proposals", clip=training)
    pairs, made, trained = (planner.job(each) for each in (run, proposals, training.using(PAIRS_FILE, run)))
    assert (pairs.tool.name, pairs.product.name, pairs.results) == ("make_region_text.py", "pairs.json", None)
    assert pairs.arguments == [
        "--proposals", str(made.product), "--clip", "ViT-B-16", "--pretrained", "null",
        "--dataset", "fake_images", "--output", str(pairs.product), "--device", "cpu",
    ]  # fmt: skip
    assert trained.config.dataloader.train.mapper.regions.json_file == str(pairs.product)
    captions = tmp_path / "captions.json"
    MetadataCatalog.get("fake_images").captions_json = str(captions)
    assert gaps([Planner(tmp_path / "out").job(run)]) == [f"data set fake_images: {captions}"]
