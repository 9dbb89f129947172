"""Figures: no label is cut off, a temperature has one colour, units are those a forecaster reads."""

import functools
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from microclimate.figures import plot, scorecards
from microclimate.figures.maps import colour_scale, look_of, select_field
from microclimate.files import shared_data
from microclimate.grid import NORWAY
from microclimate.variables import CHANNELS, variable
from microclimate.weather.nature import sample
from microclimate.weather.open import open_weather

HOUR = np.timedelta64(1, "h").astype("m8[ns]")
UNITS = {"°C", "hPa", "mm", "mm/h", "m/s", "%", "W/m²", "dam", "Pa/s", "g/kg"}


@functools.cache
def norway(start):
    times = np.datetime64(start, "ns") + np.arange(19) * HOUR
    return sample(NORWAY, times)


def real(name, **options):
    folder = shared_data()
    if folder is None:
        pytest.skip("there are no real weather files here")
    return open_weather(str(folder / name), **options)


def gulf():
    return real("era5_gulf_2003_2007/era5_2007.nc", time=("2007-07-01T00", "2007-07-03T06"))


def arome():
    forecast = real("arome_arctic_2p5km_20180710.nc")
    return forecast[["2t", "10u", "10v", "msl", "tp", "tcc", "z_sfc", "crs"]]


WEATHER = dict(
    june=lambda: norway("2024-06-07T12"),
    january=lambda: norway("2024-01-17T12"),
    gulf=gulf,
    arome=arome,
)


def halfway(ds, start=6, model="a-model-of-the-user"):
    "A forecast halfway between the state at its start and the truth."
    moving = ds[[n for n in ds.data_vars if "time" in ds[n].dims]]
    first, later = moving.isel(time=start, drop=True), moving.isel(time=slice(start + 1, None))
    lead = later.time.values - ds.time.values[start]
    states = ((first + later) / 2).rename(time="lead_time").assign_coords(lead_time=lead)
    states = states.expand_dims(init_time=[ds.time.values[start]])
    if "crs" in ds:
        states["crs"] = ds["crs"]
    return states.assign_attrs(ds.attrs | dict(model=model, boundary="none"))


def ticks_outside(ax):
    "Labels beyond the limits of an axis, which are not drawn."
    for axis in (ax.xaxis, ax.yaxis):
        low, high = sorted(axis.get_view_interval())
        for tick in axis.get_major_ticks():
            if not low - 1e-9 <= tick.get_loc() <= high + 1e-9: yield from (tick.label1, tick.label2)


def cut_off(fig):
    "Texts that lie partly outside the figure."
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    width, height = canvas.get_width_height()
    hidden = {label for ax in fig.axes for label in ticks_outside(ax)}
    texts = [t for t in fig.findobj(Text) if t.get_visible() and t.get_text().strip()]
    texts = [t for t in texts if t not in hidden]
    boxes = {t: t.get_window_extent(canvas.get_renderer()) for t in texts}
    return [
        text.get_text()
        for text, box in boxes.items()
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
    ]


def units_of(fig):
    "What stands in brackets on axes, colour bars and panels."
    labels = [ax.get_ylabel() for ax in fig.axes] + [ax.get_title("left") for ax in fig.axes]
    brackets = [label.rpartition("(")[2].removesuffix(")") for label in labels if ")" in label]
    return {units for units in brackets if not units.startswith("+")}  # not "(+6 h)"


@pytest.mark.parametrize("season", WEATHER)
def test_no_label_is_cut_off(season):
    ds = WEATHER[season]()
    ahead = halfway(ds)
    figures = {"overview": plot.week_overview(ds), "towns": plot.meteogram({"m": ahead}, ds)}
    figures["panels"] = plot.weather_panels(ds, ahead, "msl" if "msl" in ds else "2t", [6, 12])
    for name in ("2t", "wind", "tp", "ssrd", "tcc"):
        if name in ds or name == "wind": figures[name] = plot.weather_map(ds, name)
    cut = {what: cut_off(fig) for what, fig in figures.items()}
    assert not any(cut.values()), cut
    shown = set().union(*map(units_of, figures.values()))
    assert shown <= UNITS, shown
    assert not plt.get_fignums()


def test_one_temperature_has_one_colour():
    "June, January, the Gulf and Svalbard: equal degrees, equal colours, and frost is never yellow."
    scales = []
    for make in WEATHER.values():
        try:
            scales.append(colour_scale(look_of("2t"), make()["2t"]))
        except pytest.skip.Exception:
            continue
    for celsius in np.arange(-19.5, 45):
        inside = [s for s in scales if s.levels[0] < celsius < s.levels[-1]]
        if not inside: continue
        colours = np.array([s.colours(s.norm(celsius)) for s in inside])
        assert np.ptp(colours, axis=0).max() < 0.12, celsius  # a class spans 1 or 2 degrees
        blue = colours[:, 2] > colours[:, 0]
        assert (blue == (celsius < 0)).all() or celsius > 33, celsius  # beyond, red turns to purple
    assert all(0 in s.levels for s in scales if s.levels[0] < 0 < s.levels[-1])


@pytest.mark.parametrize("name", [*CHANNELS, "wind"])
def test_scales_are_fixed(name):
    "The same value has nearly the same colour in June as in January."
    fields = (select_field(WEATHER[season](), name) for season in ("june", "january"))
    june, january = (colour_scale(look_of(name), field) for field in fields)
    low = max(june.levels[0], january.levels[0])
    high = min(june.levels[-1], january.levels[-1])
    assert low < high
    values = np.linspace(low, high, 40)[1:-1]
    colours = [np.array([s.colours(s.norm(v)) for v in values]) for s in (june, january)]
    assert np.abs(colours[0] - colours[1]).max() < 0.2


def table(hours):
    "Scores of all channels, with intervals, in SI units."
    rng, rows = np.random.default_rng(0), []
    for name in (*CHANNELS, "vector_wind"):
        units = variable("10u" if name == "vector_wind" else name).units
        size = {"Pa": 500.0, "m2 s-2": 800.0, "W m-2": 90.0, "1": 0.3}.get(units, 3.0)
        for model in ("a-model-of-the-user", "persistence", "climatology"):
            for metric, unit, value in (("rmse", units, size), ("bias", units, -size / 5)):
                common = dict(model=model, boundary="none", variable=name, metric=metric, units=unit)
                values = value * np.sqrt(np.asarray(hours) / hours[-1]) * rng.uniform(0.8, 1.2)
                ends = dict(value=values, low=values * 0.9, high=values * 1.1)
                rows.append(pd.DataFrame(common | dict(lead_hours=hours, region="all", pairs=12) | ends))
        for reference in ("persistence", "climatology"):
            skill = rng.normal(0, 1.5, len(hours))
            common = dict(model="a-model-of-the-user", boundary="none", variable=name, units="1")
            ends = dict(metric=f"skill_{reference}", value=skill, low=skill - 0.1, high=skill + 0.1)
            rows.append(pd.DataFrame(common | dict(lead_hours=hours, region="all", pairs=12) | ends))
    return pd.concat(rows, ignore_index=True)


@pytest.mark.parametrize("hours", [[1, 2, 3], list(range(6, 241, 6))])
def test_scores_in_a_forecasters_units(hours):
    scores = table(hours)
    figures = {metric: scorecards.score_by_lead(scores, metric) for metric in ("rmse", "bias")}
    figures |= {ref: scorecards.scorecard(scores, ref) for ref in ("persistence", "climatology")}
    cut = {what: cut_off(fig) for what, fig in figures.items()}
    assert not any(cut.values()), cut
    for metric in ("rmse", "bias"): assert units_of(figures[metric]) <= UNITS
    cells = [t.get_text() for t in figures["persistence"].axes[0].texts]
    assert "< −100" in cells and not any(t.startswith("−") and len(t) > 4 for t in cells)
    text = scorecards.markdown_scores(scores)
    assert "(°C)" in text and "(hPa)" in text and "(K)" not in text and "(Pa)" not in text
    assert text.splitlines()[0].count(" h |") <= 8
    shown = scorecards.in_shown_units(scores)
    pressure = (scores.variable == "msl") & (scores.metric == "rmse")
    np.testing.assert_allclose(shown.value[pressure], scores.value[pressure] / 100)
    assert shown.index.equals(scores.index) and list(shown) == list(scores)


def test_differences_are_symmetric():
    ds = WEATHER["january"]()
    for name in ("2t", "msl", "tp"):
        bar = plot.weather_panels(ds, halfway(ds), name, [12]).axes[-1]
        low, high = bar.get_ylim()
        assert low == -high and bar.get_ylabel().startswith("Error")


def test_a_forecast_without_truth():
    ds = WEATHER["june"]()
    ahead, history = halfway(ds), ds.isel(time=slice(0, 7))
    for fig in (plot.meteogram({"m": ahead}, history), plot.meteogram({"m": ahead})):
        assert not cut_off(fig)
    names = [t.get_text() for t in plot.meteogram({"m": ahead}, history).legends[0].texts]
    assert names[0].startswith("history") and "m" in names


def test_figures_warn_of_nothing():
    ds = WEATHER["june"]()
    ds = ds.where(ds.latitude < 72)  # some rows are missing
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot.weather_map(ds, "2t")
        plot.week_overview(ds)
