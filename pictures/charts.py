"""Charts of the report in Vega-Lite. Text has the colour of the page that they stand in; data are plain values."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

CHECKPOINT, RESUMED, WARNING = "checkpoint", "resumed", "warning"
MARKS = {
    CHECKPOINT: "triangles: checkpoints",
    RESUMED: "orange lines: resumed",
    WARNING: "red lines: what the collapse monitor says",
}
"""What may be marked along a chart of lines, and how a caption says it."""
RULES = {RESUMED: "#d9822b", WARNING: "#d64545"}
BLUE, GREY = "#4c8ac4", "#888888"  # seen on white and on black
COLOURS = 20  # after which they come again
LEAST_BAND, HIGHEST = 11, 720  # px of a row that has a name, and of a chart of many
WIDTH, HEIGHT, HALF = 640, 200, 400  # px of the page
Row = Mapping[str, Any]


def lines(
    rows: Sequence[Row],
    x: str,
    y: str,
    colour: str | None = None,
    marks: Sequence[Row] = (),
    dash: str | None = None,
) -> dict[str, Any]:
    """A line for each value of `colour`, and of `dash` dashed as it says, half a page wide.

    `marks` are rows with `x`, a `kind` of MARKS and a text `note`: triangles below, or upright lines.
    """
    import altair

    encoding = {
        "x": altair.X(f"{_field(x)}:Q", title=x, scale=altair.Scale(zero=False, nice=False)),
        "y": altair.Y(f"{_field(y)}:Q", title=None, scale=altair.Scale(zero=False)),
        "tooltip": [_tip(name) for name in (x, y, colour, dash) if name],
    }
    if colour:
        encoding["color"] = _colour(rows, colour, columns=2)
    if dash:
        legend = altair.Legend(title=None, orient="top", columns=3)
        encoding["strokeDash"] = altair.StrokeDash(f"{_field(dash)}:N", sort=None, legend=legend)
    base = altair.Chart(_data(rows))
    layers = [base.mark_line(point=len(rows) < 60, strokeWidth=1.5).encode(**encoding)]
    height = HALF * 2 // 5
    for kind in dict.fromkeys(mark["kind"] for mark in marks):
        marked = altair.Chart(_data([mark for mark in marks if mark["kind"] == kind]))
        where = {"x": f"{_field(x)}:Q", "tooltip": [_tip(x), _tip("note")]}
        if kind in RULES:
            rules = marked.mark_rule(strokeDash=[4, 3], color=RULES[kind], strokeWidth=1.5)
            layers.append(rules.encode(**where))
        else:
            triangles = marked.mark_point(shape="triangle-up", size=36, filled=True, color=GREY)
            layers.append(triangles.encode(y=altair.value(height - 4), **where))
    return _spec(altair.layer(*layers).properties(width=HALF, height=height))


def bars(rows: Sequence[Row], name: str, value: str, colour: str | None = None) -> dict[str, Any]:
    """A bar for each name, in the order of the rows."""
    import altair

    encoding = {
        "x": altair.X(f"{_field(value)}:Q", title=value),
        "y": altair.Y(f"{_field(name)}:N", sort=None, title=None, axis=altair.Axis(labelLimit=220)),
        "tooltip": [_tip(key) for key in rows[0]],
    }
    if colour:
        encoding["color"] = _colour(rows, colour)
        encoding["yOffset"] = altair.YOffset(f"{_field(colour)}:N", sort=None)
    chart = altair.Chart(_data(rows)).mark_bar().encode(**encoding)
    height = altair.Step(_band(rows, name, 32 if colour else 20), **{"for": "position"})
    return _spec(chart.properties(width=WIDTH - 160, height=height))


def intervals(rows: Sequence[Row], name: str, value: str, low: str, high: str) -> dict[str, Any]:
    """A point and the interval around it for each name, in the order of the rows."""
    import altair

    base = altair.Chart(_data(rows))
    y = altair.Y(f"{_field(name)}:N", sort=None, title=None, axis=altair.Axis(labelLimit=220))
    tooltip = [_tip(key) for key in rows[0]]
    rule = base.mark_rule().encode(
        x=altair.X(f"{_field(low)}:Q", title=value),
        x2=_field(high),
        y=y,
        color=altair.value("#888888"),
    )
    point = base.mark_point(filled=True, size=45).encode(
        x=f"{_field(value)}:Q", y=y, tooltip=tooltip
    )
    height = altair.Step(_band(rows, name, 20))
    return _spec(altair.layer(rule, point).properties(width=WIDTH - 160, height=height))


def histogram(values: Sequence[float], name: str, bins: int = 40) -> dict[str, Any]:
    """How often values fall into equal intervals; counted here, so that the page holds the counts alone."""
    import altair
    import numpy as np

    counts, edges = np.histogram(np.asarray(values, float), bins=bins)
    rows = [
        {"from": float(low), "to": float(high), "images": int(count)}
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    chart = (
        altair.Chart(_data(rows))
        .mark_bar()
        .encode(
            x=altair.X("from:Q", title=name, bin="binned"),
            x2="to:Q",
            y=altair.Y("images:Q"),
            tooltip=[_tip(key) for key in rows[0]],
        )
    )
    return _spec(chart.properties(width=WIDTH, height=HEIGHT // 2))


def heat(rows: Sequence[Row], x: str, y: str, value: str, names: Sequence[str]) -> dict[str, Any]:
    """A square for each pair of names, in the order of `names`, fuller with its value; without a row it is empty."""
    import altair

    shown = [_plain(name) for name in names]
    side = max(5, min(44, 560 // max(len(names), 1)))
    axis = altair.Axis(labels=side >= LEAST_BAND, ticks=side >= LEAST_BAND, labelLimit=160)
    scale = altair.Scale(domain=shown)
    chart = (
        altair.Chart(_data(rows))
        .mark_rect()
        .encode(
            x=altair.X(f"{_field(x)}:N", sort=None, title=x, axis=axis, scale=scale),
            y=altair.Y(f"{_field(y)}:N", sort=None, title=y, axis=axis, scale=scale),
            # From the page's own colour on, be it light or dark
            color=altair.Color(
                f"{_field(value)}:Q",
                scale=altair.Scale(range=[f"{BLUE}16", BLUE], domainMin=0),
                title=value,
            ),
            tooltip=[_tip(key) for key in rows[0]],
        )
    )
    return _spec(chart.properties(width=altair.Step(side), height=altair.Step(side)))


def points(rows: Sequence[Row], colour: str) -> dict[str, Any]:
    """Points at x and y without axes; `image`, a data URI, and the other values appear where the mouse is."""
    import altair

    shown = [name for name in rows[0] if name not in ("x", "y")]
    chart = (
        altair.Chart(_data(rows))
        .mark_circle(size=38, opacity=0.8)
        .encode(
            x=altair.X("x:Q", axis=None, scale=altair.Scale(zero=False)),
            y=altair.Y("y:Q", axis=None, scale=altair.Scale(zero=False)),
            color=_colour(rows, colour),
            tooltip=[_tip(name) for name in shown],
        )
    )
    return _spec(chart.properties(width=WIDTH, height=WIDTH * 3 // 4))


def reliability(rows: Sequence[Row]) -> dict[str, Any]:
    """Bins of confidence and accuracy in percent, against the diagonal on which they are equal."""
    import altair

    scale = altair.Scale(domain=[0, 100])
    data = altair.Chart(_data(rows))
    bar = data.mark_bar(opacity=0.8).encode(
        x=altair.X("from:Q", bin="binned", title="confidence, percent", scale=scale),
        x2="to:Q",
        y=altair.Y("accuracy:Q", title="accuracy, percent", scale=scale),
        tooltip=[_tip(key) for key in rows[0]],
    )
    corners = altair.Chart(_data([{"x": 0, "y": 0}, {"x": 100, "y": 100}]))
    diagonal = corners.mark_line(strokeDash=[4, 3], color="currentColor").encode(x="x:Q", y="y:Q")
    return _spec(altair.layer(bar, diagonal).properties(width=320, height=320))


def as_svg(spec: dict[str, Any]) -> bytes:
    """The chart as a file of its own, black on nothing."""
    import vl_convert

    return vl_convert.vegalite_to_svg(spec).encode()


def as_png(spec: dict[str, Any]) -> bytes:
    import vl_convert

    return vl_convert.vegalite_to_png({**spec, "background": "white"}, scale=2)


def _data(rows: Sequence[Row]) -> Any:
    import altair

    return altair.Data(
        values=[{name: _plain(value) for name, value in row.items()} for row in rows]
    )


def _plain(value: Any) -> Any:
    """What is no number is left out, and what is no text (names of files need not be UTF-8) is written out."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _field(name: str) -> str:
    """A column as Vega-Lite names it: signs that have a meaning there stand for themselves."""
    for sign in "\\.[]:":
        name = name.replace(sign, f"\\{sign}")
    return name


def _tip(name: str) -> Any:
    import altair

    return altair.Tooltip(_field(name), type="nominal", title=name)


def _colour(rows: Sequence[Row], name: str, columns: int = 4) -> Any:
    """A colour for each value, in the order of the rows; of more than there are colours none is named."""
    import altair

    values = len({row[name] for row in rows})
    legend = altair.Legend(labelLimit=180, orient="bottom", columns=columns, title=None)
    return altair.Color(
        f"{_field(name)}:N",
        sort=None,
        scale=altair.Scale(scheme="tableau10" if values <= 10 else "tableau20"),
        legend=legend if values <= COLOURS else None,
    )


def _band(rows: Sequence[Row], name: str, most: int) -> int:
    """The height of a name's row in px: lower where there are many."""
    return max(LEAST_BAND, min(most, HIGHEST // max(1, len({row[name] for row in rows}))))


def _spec(chart: Any) -> dict[str, Any]:
    text = {"labelColor": "currentColor", "titleColor": "currentColor"}
    axis = {**text, "gridColor": "#88888844", "domainColor": "#888888", "tickColor": "#888888"}
    configured = chart.configure(
        background="transparent",
        axis=axis,
        legend=text,
        title={"color": "currentColor"},
        view={"stroke": None},
    )
    return configured.to_dict(validate=False)  # half of a chart's time
