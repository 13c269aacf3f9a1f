import io

import pytest
from rich.console import Console

from clipself_d2.reproduce.render import cells, markdown, rich_table


@pytest.fixture
def outcome():
    rows = [
        {"label": "one", "paper_label": "uno", "ours": {"a": 12.34, "b": None}, "paper": {"a": 45.0, "b": None}},
        {"label": "two", "paper_label": "", "ours": {"a": 50.0, "b": 7.0}, "paper": {"a": None, "b": None}},
    ]
    common = {"table": "X", "scale": "paper", "title": "Table X", "varies": "number", "columns": ["a", "b"]}
    return {**common, "note": "Mind this.", "rows": rows, "same_order": {}}


def test_columns_of_the_paper_without_a_number_are_left_out(outcome):
    assert cells(outcome) == [
        ["number", "paper's row", "a", "a, paper", "b"],
        ["one", "uno", "12.3", "45.0", ""],
        ["two", "", "50.0", "", "7.0"],
    ]
    for row in outcome["rows"]:
        row["paper_label"] = ""
    assert cells(outcome)[0] == ["number", "a", "a, paper", "b"]


def test_markdown(outcome):
    outcome["same_order"] = {"a": True}
    lines = markdown(outcome).splitlines()
    assert lines[0] == "**Table X**"
    assert lines[2:6] == [
        "| number | paper's row | a | a, paper | b |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| one | uno | 12.3 | 45.0 |  |",
        "| two |  | 50.0 |  | 7.0 |",
    ]
    assert lines[-1] == "Mind this. The rows' order is the paper's."


def test_an_unlike_order_is_said_in_words(outcome):
    outcome["same_order"] = {"a": True, "b": False}
    assert markdown(outcome).splitlines()[-1] == "Mind this. The rows' order is not the paper's in b."


def test_the_terminal_shows_the_same(outcome):
    text = io.StringIO()
    Console(file=text, width=120).print(rich_table(outcome))
    for word in ("Table X", "paper's row", "12.3", "45.0", "Mind this."):
        assert word in text.getvalue()
