"""What a table of the paper is here: rows, each with the command that gives its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

Cell = float | None
Columns = Mapping[str, str]
"""Heading -> the metric's place in `results.json`, as "task.metric"."""
# Keys of configs that name what a run takes from another.
TOWER = "clip.pretrained"
CHECKPOINT = "train.init_checkpoint"
PROPOSALS_FILE = "proposals.json_file"
PAIRS_FILE = "dataloader.train.mapper.regions.json_file"
MASK_GENERATOR = "model.generator.checkpoint"


@dataclass(frozen=True)
class Run:
    """One command.

    Attributes:
        config: file below `configs/`.
        overrides: `key=value` of the config.
        uses: what the command takes from other runs: (key of the config or option of the tool, run).
        trains: train, evaluate and export; False only evaluates.
        tool: script below `tools/`. Other tools than `train_net` take the images of `dataset`.
        dataset: registered name.
    """

    config: str
    overrides: tuple[str, ...] = ()
    uses: tuple[tuple[str, Run], ...] = ()
    trains: bool = True
    tool: str = "train_net"
    dataset: str = ""

    def having(self, *overrides: str) -> Run:
        """The same run with further overrides."""
        return replace(self, overrides=(*self.overrides, *overrides))

    def using(self, key: str, run: Run | None) -> Run:
        """The same run with something of another run's; None changes nothing."""
        return replace(self, uses=(*self.uses, (key, run))) if run else self

    def on(self, tower: Run | None) -> Run:
        """The same run with the tower that another run exports; None keeps the config's own."""
        return self.using(TOWER, tower)

    def before(self, *overrides: str) -> Run:
        """The evaluation of the tower that this run starts from."""
        return replace(self.having(*overrides), uses=(), trains=False)

    def after(self, *overrides: str) -> Run:
        """The evaluation of the tower that this run exports."""
        return self.before(*overrides).on(self)

    def evaluated(self, *overrides: str) -> Run:
        """The evaluation of the model that this run trains."""
        return replace(self.having(*overrides), trains=False).using(CHECKPOINT, self)

    def taken_by(self, tool: str, option: str, dataset: str = "", clip: Run | None = None) -> Run:
        """The run of another tool with what this run makes.

        Args:
            tool: script below `tools/`.
            option: the tool's option that names it.
            dataset: the tool's; that of this run by default.
            clip: the run whose CLIP the tool uses; this one by default.
        """
        run = clip or self
        return Run(run.config, run.overrides, ((option, self),), False, tool, dataset or self.dataset)


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        label: what distinguishes the row.
        run: gives our numbers; rows may share a run.
        paper: for each column the paper's number or None; () is None everywhere.
        paper_label: the paper's row, where that is another than ours.
        metrics: for each column the place in `results.json`, as "task.metric", or "" for none; () is the table's.
        key: the row's numbers are also under this name at the top of the table's `results.json`.
        above: the label of a row that is below this one by what the paper does, which prints no number of it.
        series, x: the curve of a figure that the row is a point of, and its place; without a place a level line.
    """

    label: str
    run: Run
    paper: tuple[Cell, ...] = ()
    paper_label: str = ""
    metrics: tuple[str, ...] = ()
    key: str = ""
    above: str = ""
    series: str = ""
    x: float | None = None


@dataclass(frozen=True)
class Table:
    """A table or figure at one scale.

    Attributes:
        name: `1a`, `fig3`.
        scale: `miniature` or `paper`.
        title: what is shown.
        varies: heading of the rows' labels.
        columns: of numbers, all in percent.
        rows: top to bottom.
        note: what a reader must know to compare.
        figure: a figure that is drawn too, a key of `figures.FIGURES`.
    """

    name: str
    scale: str
    title: str
    varies: str
    columns: Columns
    rows: tuple[Row, ...]
    note: str = ""
    figure: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if {len(row.metrics), len(row.paper)} - {0, len(self.columns)}:
                raise ValueError(f"table {self.name}, row {row.label}: give as many values as there are columns")
            if row.above and row.above not in [other.label for other in self.rows]:
                raise ValueError(f"table {self.name}, row {row.label}: above names no row: {row.above}")

    def metrics(self, row: Row) -> tuple[str, ...]:
        """The places of a row's numbers, one for each column."""
        return row.metrics or tuple(self.columns.values())

    @property
    def label(self) -> str:
        """`Table 1a`, `Figure 3`; a table that is not in the paper has its name alone."""
        if self.name.startswith("fig"):
            return f"Figure {self.name.removeprefix('fig')}"
        return self.name.capitalize() if len(self.name) > 2 else f"Table {self.name}"

    @property
    def heading(self) -> str:
        """Name, scale and title."""
        return f"{self.label} ({self.scale}): {self.title}"


def rows_of(
    runs: Mapping[str, Run],
    paper: Mapping[str, Sequence[Cell]],
    columns: Columns,
    *,
    name: str = "",
    theirs: str = "",
    keys: Mapping[str, str] | None = None,
    metrics: Sequence[str] = (),
    above: Mapping[str, str] | None = None,
) -> tuple[Row, ...]:
    """Rows out of runs and the paper's numbers, both by what distinguishes a row.

    Args:
        runs: top to bottom.
        paper: numbers of some of them, in the order of the columns that the rows fill.
        columns: of the table.
        name: what the rows' labels begin with.
        theirs: what the paper's labels begin with, where its rows are others than ours.
        keys: `Row.key` by what distinguishes the row.
        metrics: the columns' places that these rows fill, where others of the table fill the rest.
        above: `Row.above` by what distinguishes the row, as what distinguishes the other.
    """
    filled = [place in metrics or not metrics for place in columns.values()]
    found = []
    for kind, run in runs.items():
        known = iter(paper.get(kind, ()))
        numbers = tuple(next(known, None) if fills else None for fills in filled) if kind in paper else ()
        found.append(
            Row(
                f"{name}{kind}",
                run,
                numbers,
                f"{theirs}{kind}" if theirs and numbers else "",
                tuple(place if fills else "" for place, fills in zip(columns.values(), filled, strict=True)),
                (keys or {}).get(kind, ""),
                f"{name}{above[kind]}" if above and kind in above else "",
            )
        )
    return tuple(found)


def keyed(labels: Iterable[str]) -> dict[str, str]:
    """Keys for labels: `clip_only_original` for "CLIP only, original"."""
    return {label: label.lower().replace(",", "").replace(" ", "_").replace("-", "_") for label in labels}
