import pytest

from reproduction.outcome import as_text, cells, orderings, same_order, verdicts


@pytest.fixture
def outcome():
    rows = [
        {"label": "one", "paper_label": "uno", "ours": {"a": 12.34, "b": None}, "paper": {"a": 45.6, "b": None}},
        {"label": "two", "paper_label": "", "ours": {"a": 50.0, "b": 7.0}, "paper": {"a": None, "b": None}},
    ]
    common = {"table": "X", "scale": "paper", "title": "Table X", "varies": "number", "columns": ["a", "b"]}
    return {**common, "note": "Mind this.", "rows": rows, "same_order": {}}


def test_columns_of_the_paper_without_a_number_are_left_out(outcome):
    assert list(cells(outcome)) == ["number", "paper's row", "a", "a, paper", "b"]
    for row in outcome["rows"]:
        row["paper_label"] = ""
    assert list(cells(outcome)) == ["number", "a", "a, paper", "b"]


def test_markdown(outcome):
    outcome["same_order"] = {"a": True}
    lines = as_text(outcome, markdown=True).splitlines()
    assert lines[0] == "**Table X**"
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:6] if "--" not in line] == [
        ["number", "paper's row", "a", "a, paper", "b"],
        ["one", "uno", "12.3", "45.6", ""],
        ["two", "", "50.0", "", "7.0"],
    ]
    assert lines[3].startswith("|:--") and lines[3].endswith("-:|")
    assert lines[-1] == "Mind this. The rows' order is the paper's."


def test_another_order_is_said_in_words(outcome):
    outcome["same_order"] = {"a": True, "b": False}
    assert as_text(outcome, markdown=True).splitlines()[-1] == "Mind this. The rows' order is not the paper's in b."


def test_the_terminal_shows_the_same(outcome):
    text = as_text(outcome, markdown=False)
    assert text.startswith("Table X\n") and text.endswith("\nMind this.\n")
    for word in ("paper's row", "12.3", "45.6", "uno"):
        assert word in text


def rows(*numbers, data=("",)):
    """Rows of (paper's, ours), of data sets in turn."""
    return [
        {"label": i, "above": "", "paper": {"a": paper}, "ours": {"a": ours}, "data": data[i % len(data)]}
        for i, (paper, ours) in enumerate(numbers)
    ]


@pytest.mark.parametrize(
    ("found", "same"),
    [
        (rows((10, 1), (20, 5), (30, 6)), True),
        (rows((10, 1), (20, 5), (30, 4)), False),
        (rows((10, 1), (20, 1)), False),  # the paper tells them apart
        (rows((10, 1), (10, 5)), None),
        (rows((10, 1), (None, 5)), None),
        (rows((10, None), (20, 5)), None),
        (rows((10, 5), (20, 1), data=("coco", "ade")), None),  # rows of different data sets are not compared
        (rows((10, 5), (20, 1), (30, 6), (40, 2), data=("coco", "ade")), True),
    ],
)
def test_the_order_of_rows(found, same):
    assert same_order(found, "a") is same


@pytest.mark.parametrize(
    ("numbers", "same"),
    [
        (((None, 5), (10, 6)), True),
        (((None, 5), (10, 5)), False),
        (((None, 5), (10, 4)), False),
        (((None, 5), (None, 6)), None),  # a column of which the paper has nothing
        (((None, None), (10, 6)), None),
        (((30, 5), (10, 4), (20, 3)), False),
    ],
)
def test_a_row_above_one_without_a_number(numbers, same):
    found = rows(*numbers)
    found[1]["above"] = 0
    assert same_order(found, "a") is same


def test_verdicts_on_every_column():
    outcomes = {
        "Table 1": {"same_order": {"a": True, "b": False, "c": True}},
        "Figure 2": {"same_order": {}},
        "Table 3": {"same_order": {"a": False}},
    }
    assert orderings(outcomes.values()) == "2 of 4 orderings hold"
    lines = verdicts(outcomes, markdown=True).splitlines()
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:4]] == [
        ["Table 1", "a, c", "b"],
        ["Table 3", "", "a"],
    ]
    assert lines[-1] == "**2 of 4 orderings hold**"
    text = verdicts(outcomes, markdown=False)
    assert "Table 1" in text and text.endswith("\n\n2 of 4 orderings hold\n")
    assert verdicts({}, markdown=False).endswith("0 of 0 orderings hold\n")
