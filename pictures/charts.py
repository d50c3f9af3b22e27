"""Charts of the report in Vega-Lite. Text has the colour of the page that they stand in; data are plain values."""

from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT, HALF = 640, 200, 400  # px of the page
Row = Mapping[str, Any]


def lines(
    rows: Sequence[Row], x: str, y: str, colour: str | None = None, marks: Sequence[Row] = ()
) -> dict[str, Any]:
    """A line for each value of `colour`; `marks`, rows with `x` and a text `note`, are upright lines. Half a page."""
    import altair

    encoding = {
        "x": altair.X(f"{_field(x)}:Q", title=x, scale=altair.Scale(zero=False, nice=False)),
        "y": altair.Y(f"{_field(y)}:Q", title=None, scale=altair.Scale(zero=False)),
        "tooltip": [_tip(name) for name in (x, y, *([colour] if colour else ()))],
    }
    if colour:
        encoding["color"] = _colour(colour)
    base = altair.Chart(altair.Data(values=list(rows)))
    layers = [base.mark_line(point=len(rows) < 60, strokeWidth=1.5).encode(**encoding)]
    if marks:
        rules = altair.Chart(altair.Data(values=list(marks))).mark_rule(strokeDash=[4, 3])
        layers.append(
            rules.encode(
                x=f"{_field(x)}:Q",
                color=altair.value("#d9822b"),
                tooltip=[_tip(x), altair.Tooltip("note:N")],
            )
        )
    return _spec(altair.layer(*layers).properties(width=HALF, height=HALF * 2 // 5))


def bars(rows: Sequence[Row], name: str, value: str, colour: str | None = None) -> dict[str, Any]:
    """A bar for each name, in the order of the rows."""
    import altair

    encoding = {
        "x": altair.X(f"{_field(value)}:Q", title=value),
        "y": altair.Y(f"{_field(name)}:N", sort=None, title=None, axis=altair.Axis(labelLimit=220)),
        "tooltip": [_tip(key) for key in rows[0]],
    }
    if colour:
        encoding["color"] = _colour(colour)
        encoding["yOffset"] = altair.YOffset(f"{_field(colour)}:N")
    chart = altair.Chart(altair.Data(values=list(rows))).mark_bar().encode(**encoding)
    return _spec(chart.properties(width=WIDTH - 160))


def intervals(rows: Sequence[Row], name: str, value: str, low: str, high: str) -> dict[str, Any]:
    """A point and the interval around it for each name, in the order of the rows."""
    import altair

    base = altair.Chart(altair.Data(values=list(rows)))
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
    return _spec(altair.layer(rule, point).properties(width=WIDTH - 160))


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
        altair.Chart(altair.Data(values=rows))
        .mark_bar()
        .encode(
            x=altair.X("from:Q", title=name, bin="binned"),
            x2="to:Q",
            y=altair.Y("images:Q"),
            tooltip=[_tip(key) for key in rows[0]],
        )
    )
    return _spec(chart.properties(width=WIDTH, height=HEIGHT // 2))


def heat(rows: Sequence[Row], x: str, y: str, value: str) -> dict[str, Any]:
    """A square for each pair of names, in the order of the rows, darker with the share of its row `y`."""
    import altair

    count = len({row[x] for row in rows})
    side = max(10, min(44, 560 // max(count, 1)))
    chart = (
        altair.Chart(altair.Data(values=list(rows)))
        .mark_rect()
        .encode(
            x=altair.X(f"{_field(x)}:N", sort=None, title=x),
            y=altair.Y(f"{_field(y)}:N", sort=None, title=y),
            color=altair.Color(
                f"{_field(value)}:Q", scale=altair.Scale(scheme="blues"), title=value
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
        altair.Chart(altair.Data(values=list(rows)))
        .mark_circle(size=38, opacity=0.8)
        .encode(
            x=altair.X("x:Q", axis=None, scale=altair.Scale(zero=False)),
            y=altair.Y("y:Q", axis=None, scale=altair.Scale(zero=False)),
            color=_colour(colour),
            tooltip=[_tip(name) for name in shown],
        )
    )
    return _spec(chart.properties(width=WIDTH, height=WIDTH * 3 // 4))


def reliability(rows: Sequence[Row]) -> dict[str, Any]:
    """Bins of confidence and accuracy in percent, against the diagonal on which they are equal."""
    import altair

    scale = altair.Scale(domain=[0, 100])
    data = altair.Chart(altair.Data(values=list(rows)))
    bar = data.mark_bar(opacity=0.8).encode(
        x=altair.X("from:Q", bin="binned", title="confidence, percent", scale=scale),
        x2="to:Q",
        y=altair.Y("accuracy:Q", title="accuracy, percent", scale=scale),
        tooltip=[_tip(key) for key in rows[0]],
    )
    corners = altair.Data(values=[{"x": 0, "y": 0}, {"x": 100, "y": 100}])
    diagonal = (
        altair.Chart(corners).mark_line(strokeDash=[4, 3], color="#888888").encode(x="x:Q", y="y:Q")
    )
    return _spec(altair.layer(bar, diagonal).properties(width=320, height=320))


def as_svg(spec: dict[str, Any]) -> str:
    """The chart as a file of its own, black on nothing."""
    import vl_convert

    return vl_convert.vegalite_to_svg(spec)


def as_png(spec: dict[str, Any]) -> bytes:
    import vl_convert

    return vl_convert.vegalite_to_png({**spec, "background": "white"}, scale=2)


def _field(name: str) -> str:
    """A column as Vega-Lite names it: signs that have a meaning there stand for themselves."""
    for sign in "\\.[]:":
        name = name.replace(sign, f"\\{sign}")
    return name


def _tip(name: str) -> Any:
    import altair

    return altair.Tooltip(_field(name), type="nominal", title=name)


def _colour(name: str) -> Any:
    import altair

    return altair.Color(
        f"{_field(name)}:N",
        title=name,
        legend=altair.Legend(labelLimit=200, symbolLimit=30, orient="bottom", columns=4),
    )


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
    return configured.to_dict()
