"""Every entry, at both scales: that its commands fit the tool and the configs, and its numbers the paper's."""

import re
import shlex
from pathlib import Path

import pytest

from clipself_d2.errors import InputError
from clipself_d2.reproduce.entries import ENTRIES, MINIATURE_ABLATION_STEPS, SCALES, find
from clipself_d2.reproduce.figures import FIGURES
from clipself_d2.reproduce.plan import Planner
from clipself_d2.training.config import load_config
from clipself_d2.training.run import parse_args

TABLES = [(name, scale) for name in ENTRIES for scale in SCALES]


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
        assert Path(tool).resolve() == Path(__file__).parents[2] / "tools/train_net.py"
        args = parse_args(arguments)
        assert args.resume is job.run.trains
        assert args.eval_only is not job.run.trains
        assert args.num_gpus == 2
        config = load_config(args.config_file, args.opts)
        assert Path(config.train.output_dir) == job.folder
        assert config.train.device == "cpu"
        if job.source:
            assert Path(config.clip.pretrained) == job.source.folder / "tower.safetensors"
        assert config.model.student_size % {"EVA02-L-14-336": 14, "RN50x4": 32}.get(config.clip.name, 8) == 0


@pytest.mark.parametrize(("name", "scale"), TABLES)
def test_metrics_exist_and_figures_are_known(name, scale):
    table = find(name, scale)
    assert (table.name, table.scale) == (name, scale)
    assert table.figure in ("", *FIGURES)
    tasks = {f"{task}.top{k}" for task in ("boxes", "thing_masks", "stuff_masks", "crops") for k in (1, 5)}
    assert all(set(row.metrics) <= {*tasks, ""} for row in table.rows)
    assert len({row.label for row in table.rows}) == len(table.rows)
    assert ("laboratory" in table.note or "not the paper's values" in table.note) is (scale == "miniature")


@pytest.mark.parametrize("name", ["1a", "1b", "1c"])
def test_rows_of_an_ablation_differ_in_one_value_and_have_the_same_steps(name, planner):
    jobs = planner.jobs(find(name, "miniature"))
    assert {job.config.train.max_iter for job in jobs} == {MINIATURE_ABLATION_STEPS}
    keys = [{override.partition("=")[0] for override in job.run.overrides} - {"train.max_iter"} for job in jobs]
    assert len(set.union(*keys)) == 1
    assert {job.config.train.max_iter for job in planner.jobs(find(name, "paper"))} == {44_358}


def test_numbers_of_the_paper():
    def numbers(name, scale="paper"):
        return {row.label: row.paper[0] for row in find(name, scale).rows if row.paper}

    assert numbers("1a") == {"4": 71.3, "6": 72.1, "8": 71.6, "10": 70.0}
    assert numbers("1a", "miniature") == {"2": None, "4": 71.3, "6": 72.1, "8": 71.6}
    assert numbers("1b") == {"3": 45.0, "6": 59.4, "9": 68.7, "12": 72.1}
    assert numbers("1c") == {"320": 46.5, "640": 67.1, "1024": 72.1}
    assert list(numbers("2").values()) == [18.2, 72.1, 56.7, 77.1, 29.3, 67.4, 21.4, 68.9]


def test_the_paper_s_best_rows_are_one_run(planner):
    """Equal configs are one run, in whichever tables they appear."""
    best = [
        (table, label) for table, label in (("1a", "6"), ("1b", "12"), ("1c", "1024"), ("2", "EVA-02 B/16: patches"))
    ]
    rows = [next(row for row in find(table, "paper").rows if row.label == label) for table, label in best]
    assert len({planner.job(row.run).folder for row in rows}) == 1


def test_configs_state_the_numbers_of_table_2():
    for row in find("2", "paper").rows:
        if row.run.trains:
            text = (Path(__file__).parents[2] / "configs" / row.run.config).read_text()
            assert all(re.search(rf"\b{number}\b", text) for number in row.paper)


@pytest.mark.parametrize("alias", ["A1fig", "fig3", "3"])
def test_aliases(alias):
    assert find(alias, "miniature").name == "3"
    assert find("a1", "paper").name == "A1"


def test_unknown_names():
    with pytest.raises(InputError, match="table '9' is unknown: known are 1a, 1b, 1c, 2, A1, 3, 4"):
        find("9", "paper")
    with pytest.raises(InputError, match="scale 'huge' is unknown: use one of miniature, paper"):
        find("2", "huge")
