import pytest

from clipself_d2.errors import InputError
from clipself_d2.reproduce.plan import Planner, missing
from clipself_d2.reproduce.table import Row, Run, Table
from tests.reproduce.fake import write_config


def folders(table, output, *overrides, **options):
    return [job.folder.name for job in Planner(output, overrides, **options).jobs(table)]


def test_a_tower_is_trained_before_it_is_evaluated(tmp_path, photographs):
    training = Run(write_config(tmp_path))
    rows = (Row("after", training.exported(), ("boxes.top1",)), Row("training", training, ("boxes.top1",)))
    first, second = Planner(tmp_path).jobs(Table("X", "paper", "", "", ("boxes",), rows))
    assert (first.run, second.run) == (training, training.exported())
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
    assert missing(jobs) == []
    assert "weights: ViT-B-16, open_clip's 'openai', downloaded at the first use" in [n.what for n in jobs[1].needs]
    assert jobs[3].needs[0].what == f"weights: the tower of {jobs[2].folder}"
    photographs.rmdir()
    jobs = Planner(tmp_path, ["clip.pretrained=no.pt"]).jobs(table)
    weights, data = missing(jobs)
    assert weights == "weights: ViT-B-16, no.pt: no such file, and no tag of open_clip's"
    assert data.startswith(f"data set fake_images: {photographs}: not there; see datasets/README.md")


def test_needs_of_other_data_sets(tmp_path, table):
    train = Planner(tmp_path, ["dataloader.train.dataset=nowhere"]).jobs(table)
    assert missing(train) == ["data set nowhere: not registered; see datasets/README.md for the names"]
    proposals = tmp_path / "proposals.json"
    config = tmp_path / "fake.py"
    config.write_text(
        config.read_text().replace("mapper=dict()", f"mapper=dict(regions=dict(json_file='{proposals}'))")
    )
    [gap] = missing(Planner(tmp_path).jobs(table))
    assert gap.startswith(f"proposals: {proposals}: not there")
    proposals.touch()
    assert missing(Planner(tmp_path).jobs(table)) == []


def test_training_costs_by_steps_and_pixels(tmp_path, table):
    untouched, small, *_ = Planner(tmp_path).jobs(table)
    assert small.cost == 10 * 64**2
    assert Planner(tmp_path, ["model.student_size=128"]).jobs(table)[1].cost == 4 * small.cost
    assert untouched.cost > 0
