"""How plots look, and a figure as SVG that can stand in a page."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

INK = "#495057"

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "netgpt",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
"""For ``matplotlib.rc_context``."""


def as_svg(figure: Figure) -> str:
    """The drawing alone, the same for the same figure."""
    figure.tight_layout()
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()[out.getvalue().index("<svg") :]
