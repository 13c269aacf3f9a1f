"""What a table of the paper is to us: rows, each with the run that gives its numbers."""

from __future__ import annotations

from dataclasses import dataclass

Cell = float | None


@dataclass(frozen=True)
class Run:
    """One command: of `tools/train_net.py`, or of another tool that takes a data set's photographs.

    Attributes:
        config: file below `configs/`.
        overrides: `key=value` of the config.
        trains: train, evaluate and export; False evaluates alone.
        tower: start from (or evaluate) the tower that this run exports; None takes the weights that the config names.
            `probe_coherence` compares the two.
        model: evaluate, or propose with, the model that this run trains, on its tower.
        regions: train on, or name, the regions that this run writes.
        masks: name the masks of the generator that this run trains.
        tool: `train_net`; `make_proposals` of `model`; `make_region_text`, which names the proposals of `regions`; or
            `probe_coherence`.
        dataset: whose photographs another tool takes.
    """

    config: str
    overrides: tuple[str, ...] = ()
    trains: bool = True
    tower: Run | None = None
    model: Run | None = None
    regions: Run | None = None
    masks: Run | None = None
    tool: str = "train_net"
    dataset: str = ""

    def untouched(self, *overrides: str) -> Run:
        """The evaluation of the tower that this run starts from, with further overrides."""
        return Run(self.config, self.overrides + overrides, trains=False)

    def exported(self, *overrides: str) -> Run:
        """The evaluation of the tower that this run exports, with further overrides."""
        return Run(self.config, self.overrides + overrides, trains=False, tower=self)

    def evaluated(self, *overrides: str) -> Run:
        """The evaluation of the model that this run trains, with further overrides."""
        return Run(self.config, self.overrides + overrides, trains=False, model=self)

    def proposing(self, dataset: str) -> Run:
        """The region proposals of a data set by the model that this run trains."""
        return Run(self.config, self.overrides, trains=False, model=self, tool="make_proposals", dataset=dataset)

    def pairing(self, config: str) -> Run:
        """The region-text pairs out of the proposals that this run writes, by the CLIP that a config names."""
        return Run(config, trains=False, regions=self, tool="make_region_text", dataset=self.dataset)

    def probed(self, dataset: str) -> Run:
        """The coherence of the dense features before and after this run."""
        return Run(self.config, self.overrides, trains=False, tower=self, tool="probe_coherence", dataset=dataset)


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        label: what the table varies, here.
        run: where our numbers come from; several rows may share a run.
        metrics: for each column the place in the run's `results.json`, as "task.metric"; "" leaves the cell empty.
        paper: for each column the paper's number, None where it has none; () is None everywhere.
        paper_label: the paper's row, where it is another than ours.
        key: name of the row's numbers at the top of `results.json`; "" leaves them in its rows alone.
        series: curve of a figure that the row is a point of.
        x: the point's place; None draws the row as a level line.
    """

    label: str
    run: Run
    metrics: tuple[str, ...]
    paper: tuple[Cell, ...] = ()
    paper_label: str = ""
    key: str = ""
    series: str = ""
    x: float | None = None


@dataclass(frozen=True)
class Table:
    """A table or figure of the paper, at one scale.

    Attributes:
        name: of the entry: `1a`, `fig3`.
        scale: `miniature` or `paper`.
        title: what is shown.
        varies: heading of the rows' labels.
        columns: headings of the numbers, all in percent.
        rows: top to bottom.
        note: what a reader must know to compare.
        figure: a picture that is drawn besides: a key of `figures.FIGURES`.
    """

    name: str
    scale: str
    title: str
    varies: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    figure: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.metrics) != len(self.columns) or len(row.paper) not in (0, len(self.columns)):
                raise ValueError(f"table {self.name}, row {row.label}: give a metric, and a number, for each column")

    @property
    def label(self) -> str:
        """Kind and name: `Table 1a`."""
        kind = "Figure" if self.name.startswith("fig") else "Table"
        return f"{kind} {self.name.removeprefix('fig')}"

    @property
    def heading(self) -> str:
        """Kind, name, scale and title."""
        return f"{self.label} ({self.scale}): {self.title}"
