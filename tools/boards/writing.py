"""Writes the Grafana boards as JSON for Grafana 11; the library writes nothing that its types do not allow."""

from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

from tools.boards.definitions import Board, Panel

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
_SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
_HEIGHT = 8
_SPAN = 8  # of 24 columns


def written(board: Board) -> str:
    """The JSON of a board."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(f"funnelrank-{board.name}")
        .tags(["funnelrank"])
        .refresh("30s")
        .time("now-1h", "now")
        .with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
        .with_variable(dashboard.TextBoxVariable("job").label("Job").default_value("funnelrank"))
    )
    for title, panels in board.rows.items():
        made = made.with_row(dashboard.Row(title))
        for panel in panels:
            made = made.with_panel(_panel(panel))
    return JSONEncoder(sort_keys=True, indent=1).encode(made.build()) + "\n"


def _panel(panel: Panel) -> timeseries.Panel:
    made = timeseries.Panel().title(panel.title).description(panel.about).unit(panel.unit)
    made = made.datasource(_SOURCE).height(_HEIGHT).span(_SPAN)
    for place, (legend, query) in enumerate(panel.queries.items()):
        target = prometheus.Dataquery().expr(query).legend_format(legend).ref_id(chr(ord("A") + place))
        made = made.with_target(target.datasource(_SOURCE))
    return made
