"""Our scores are those of two other libraries, `scores` and `xskillscore`: on made-up fields, AROME-Arctic, and ERA5."""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import pytest
import xarray as xr
from scipy.fft import dctn

from microclimate.weather.climate import climatology, climatology_at, of_years
from microclimate.files import shared_data
from microclimate.weather.open import open_weather
from microclimate.scores.ensembles import rank_histogram
from microclimate.scores.evaluate import (finish_scores, needed_statistics, score, statistics, with_skill,
                                          with_vector_wind)
from microclimate.scores.events import reliability
from microclimate.grid import Grid
from microclimate.scores.spectra import make_shells, power_spectrum, spectra

pytest.importorskip("scores", reason="the dev extra is not installed")
xs = pytest.importorskip("xskillscore", reason="the dev extra is not installed")
from scores import categorical, continuous, functions, probability, spatial  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:`prob_dry` contains")  # such places count in neither library

def persistence(truth, starts, leads, lag=0):
    "The state `lag` steps before each start (positions in time), for every lead (in steps)."
    now = truth.isel(time=starts - lag).rename(time="init_time").assign_coords(init_time=truth.time.values[starts])
    return now.expand_dims(lead_time=np.array(leads) * (truth.time.values[1] - truth.time.values[0]))

@dataclass
class Case:
    truth: xr.Dataset
    starts: np.ndarray  # positions in time
    leads: tuple  # in steps
    limits: dict  # variable -> threshold of an event that comes, and does not
    window: tuple  # km, and the rows and columns that come nearest
    clim: xr.Dataset
    gaps: bool = False

    @cached_property
    def forecast(self):
        ahead = persistence(self.truth, self.starts, self.leads)
        return ahead.where(ahead["2t"] < ahead["2t"].quantile(0.9)) if self.gaps else ahead
    @cached_property
    def ensemble(self): return xr.concat([persistence(self.truth, self.starts, self.leads, lag) for lag in range(4)], "number")
    @property
    def options(self): return dict(climatology=self.clim, missing=[*self.truth.data_vars] if self.gaps else ())

def random_weather():
    "float32 fields on unevenly spaced latitudes; rain in steps of 1/8, so that members tie and thresholds are met exactly."
    rng, shape = np.random.default_rng(7), (97, 11, 17)
    fields = {"2t": rng.normal(280, 9, shape[1:]) + rng.normal(0, 4, shape), "10u": rng.normal(3, 5, shape),
              "10v": rng.normal(-2, 6, shape), "tp": np.floor(8 * rng.gamma(0.4, 1.5, shape)) / 8}
    coords = dict(time=np.arange("2023-03-05T06", "2023-03-09T07", dtype="M8[h]").astype("M8[ns]"),
                  latitude=np.sort(rng.uniform(30, 85, 11))[::-1], longitude=np.sort(rng.uniform(-20, 40, 17)))
    return xr.Dataset({n: (("time", "latitude", "longitude"), x.astype("f4")) for n, x in fields.items()}, coords)

@cache
def case(name):
    if name in ("random", "gaps"):
        truth, starts, gaps = random_weather(), np.array([3, 4, 9, 40, 41, 71, 95]), name == "gaps"
        if not gaps: starts = starts[:-1]  # most leads of the last one are beyond the end
        limits, clim = {"2t": 281.3, "tp": 0.25, "10u": 1.7}, climatology(truth, precipitation=True)
        return Case(truth.where(truth["10v"] < 9) if gaps else truth, starts, (1, 3, 25), limits, (700, (1, 3)), clim, gaps)
    if (folder := shared_data()) is None: pytest.skip("no real weather files here")
    if name == "arome":
        truth = open_weather(folder / "arome_arctic_2p5km_20180710.nc", ["2t", "10u", "10v", "msl", "tp", "z500"]).drop_vars("crs")
        limits = {"2t": 277.4, "msl": 100500.0, "tp": 0.125, "z500": 53700.0}
        return Case(truth, np.array([4, 5, 8, 9]), (1, 2, 4), limits, (12.5, (5, 5)), climatology(truth, precipitation=True))
    if name == "finse":
        truth, limits = open_weather(str(folder / "era5_finse_2018" / "*.nc"), ["2t", "tp"]), {"2t": 271.0, "tp": 0.25}
        return Case(truth, np.arange(5, 2200, 17), (1, 3, 6), limits, (80, (3, 5)), climatology(truth, precipitation=True))
    truth, limits = open_weather(str(folder / "era5_gulf_2003_2007" / "*.nc")), {"2t": 310.0, "10u": 2.0, "10v": -4.0}
    summer = truth.sel(time=slice("2007-06-01", "2007-08-05"))
    return Case(summer, np.arange(4, 490, 5), (1, 2, 8), limits, (250, (3, 3)), climatology(of_years(truth, "2003/2006")))

class Other:
    "What the other libraries get: arrays of float64 with dimensions init_time, lead_time and the grid."

    def __init__(self, name, variable, weights, ensemble=False):
        self.case, valid = case(name), case(name).forecast.init_time + case(name).forecast.lead_time
        truth, grid = self.case.truth, Grid.from_dataset(self.case.truth)
        self.o = truth[variable].reindex(time=np.unique(valid)).sel(time=valid).drop_vars("time").astype("f8")
        self.f = (self.case.ensemble if ensemble else self.case.forecast)[variable].transpose(..., *self.o.dims).astype("f8")
        if not ensemble: self.f, self.o = self.f.where(self.o.notnull()), self.o.where(self.f.notnull())
        self.usual, self.t = climatology_at(self.case.clim, valid).astype("f8"), self.case.limits.get(variable)
        self.fa, self.oa, self.space = self.f - self.usual[variable], self.o - self.usual[variable], grid.dims
        area = xr.DataArray(grid.area_weights, dims=grid.dims, coords={d: truth[d] for d in grid.dims})
        self.w = {"plain": None, "area": area, "cosine": functions.create_latitude_weights(truth.latitude.astype("f8"))}[weights]
        self.lead = dict(preserve_dims=["lead_time"], weights=self.w)  # for `scores`
        self.each = dict(preserve_dims=["init_time", "lead_time"], weights=self.w)
        self.over = dict(dim=["init_time", *self.space], weights=self.wide(self.o.isel(lead_time=0)))  # for `xskillscore`

    def wide(self, x): return None if self.w is None else self.w.broadcast_like(x).transpose(*x.dims)
    def weighed(self, x): return x if self.w is None else x.weighted(self.w)
    def mean(self, x): return self.weighed(x).mean(self.over["dim"])

    @cached_property
    def table(self):
        "`scores` itself can only count, so the weighted sums are put in."
        events = categorical.BinaryContingencyManager(*((x >= self.t).where(x.notnull()) for x in (self.f, self.o)))
        if self.w is None: return events.transform(preserve_dims=["lead_time"])
        found = {f"{k}_count": self.weighed(getattr(events, k)).sum(self.over["dim"]) for k in ("tp", "tn", "fp", "fn")}
        return categorical.BasicContingencyManager(found | {"total_count": sum(found.values())})

    @cached_property
    def xs_table(self): return xs.Contingency(self.o, self.f, *[np.array([-1e9, self.t, 1e9])] * 2, dim=self.over["dim"])

@cache
def other(*which): return Other(*which)
def plainly(function): return lambda p: function(p) if p.w is None else None  # for what a library cannot weigh
def mirrored(p): return [xr.concat([x, -x], "sign") for x in (p.fa, p.oa)]  # its mean is 0: the correlation is the uncentred one
def deviation(p, x): return np.sqrt(p.mean(x**2) - p.mean(x) ** 2)
def products(p): return [continuous.mse(x, y, **p.each) for x, y in ((p.fa, 0 * p.fa), (p.oa, 0 * p.oa), (p.fa, p.oa))]
def correlation(f, o, d): return ((f + o - d) / (2 * np.sqrt(f * o))).mean("init_time")  # 2ab = a² + b² − (a − b)²
def xs_each(f, a, b, p, *more): return f(a, b, [*more, *p.space], p.wide(b.isel(init_time=0, lead_time=0)), skipna=True).mean("init_time")

def seeps(p):  # dry is 'up to' a limit there, 'below' it here
    dry = np.nextafter(p.case.clim.tp_dry.attrs["dry_below"], -1, dtype="f4")
    return categorical.seeps(p.f, p.o, p.usual.tp_dry, p.usual.tp_heavy, dry_light_threshold=float(dry), **p.lead)

def fss(p):
    options = dict(window_size=p.case.window[1], spatial_dims=p.space, threshold_operator=np.greater_equal)
    return spatial.fss_2d(p.f, p.o, event_threshold=p.t, preserve_dims=["lead_time"], **options)

def brier(p): return probability.brier_score_for_ensemble(p.f, p.o, "number", p.t, fair_correction=False, **p.lead).isel(threshold=0)
def exceeded(p): return xs.threshold_brier_score(p.o, p.f, p.t - 1e-9, member_dim="number", **p.over)  # '>' there, '≥' here
def spread(p): return np.sqrt(p.mean(p.f.var("number", ddof=1)))
def skill(p): return np.sqrt(5 / 4) * spread(p) / continuous.rmse(p.f.mean("number"), p.o, **p.lead)  # of 4 members
def crps(method): return lambda p: probability.crps_for_ensemble(p.f, p.o, "number", method=method, **p.lead)
def contingency(theirs, xs_name): return [lambda p: getattr(p.table, theirs)(), plainly(lambda p: getattr(p.xs_table, xs_name)())]
def simple(f, g): return [lambda p: f(p.f, p.o, **p.lead), lambda p: g(p.f, p.o, **p.over, skipna=True)]

FORECASTS = {
    "rmse": simple(continuous.rmse, xs.rmse), "mse": simple(continuous.mse, xs.mse),
    "mae": simple(continuous.mae, xs.mae), "bias": simple(continuous.mean_error, xs.me),
    "rmse_each_init": [lambda p: continuous.rmse(p.f, p.o, **p.each).mean("init_time"), lambda p: xs_each(xs.rmse, p.f, p.o, p)],
    "acc": [lambda p: correlation(*products(p)), lambda p: xs_each(xs.pearson_r, *mirrored(p), p, "sign"),
            plainly(lambda p: continuous.correlation.pearsonr(*mirrored(p), preserve_dims=["init_time", "lead_time"]).mean("init_time"))],
    "activity": [lambda p: deviation(p, p.fa) / deviation(p, p.oa)], "seeps": [seeps], "fss>": [plainly(fss)],
    "csi>": contingency("critical_success_index", "threat_score"), "ets>": contingency("equitable_threat_score", "equit_threat_score"),
    "pod>": contingency("probability_of_detection", "hit_rate"), "far>": contingency("false_alarm_ratio", "false_alarm_ratio"),
    "frequency_bias>": contingency("frequency_bias", "bias_score"), "pss>": contingency("peirce_skill_score", "peirce_score"),
    "hss>": contingency("heidke_skill_score", "heidke_score"),
}  # fmt: skip
ENSEMBLES = {
    "brier>": [brier, exceeded, lambda p: xs.brier_score(p.o >= p.t, p.f >= p.t, member_dim="number", **p.over)],
    "crps": [crps("fair")], "crps_plain": [crps("ecdf"), lambda p: xs.crps_ensemble(p.o, p.f, member_dim="number", **p.over)],
    "spread": [spread], "spread_skill": [skill], "rmse": [lambda p: continuous.rmse(p.f.mean("number"), p.o, **p.lead)],
}  # fmt: skip
KINDS = {"random": ("tp", "10u", "10v"), "gaps": ("tp",), "finse": ("tp",), "gulf": ("10u", "10v"), "arome": ("tp", "10u", "10v")}
EVEN = ("finse", "gulf")  # rows whose area is the cosine of their latitude
WAYS = [(n, w) for n in KINDS for w in ("area", "cosine", "plain") if w != "cosine" or n in EVEN]
WHOLE = [(n, w) for n, w in WAYS if n != "gaps"]  # each library has its own idea of a member that is missing

def agree(ours, theirs, what=""):
    assert np.isfinite(ours).any() and ours.shape == theirs.shape, what
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9, err_msg=what)

def weigh(weights): return None if weights == "plain" else "area"
def comparable(metric, name, weights):  # neither weights nor missing values in anybody else's FSS; rain in some data only
    return (weights == "plain" and name != "gaps") if metric == "fss>" else "tp" in KINDS[name] if metric == "seeps" else True

def check(metric, name, weights, opinions, ensemble=False):
    here = case(name)
    for v in ["tp"] if metric == "seeps" else here.limits if ">" in metric else here.truth.data_vars:
        full = metric + (f"{here.limits[v]}" if ">" in metric else "") + (f"@{here.window[0]}" if "fss" in metric else "")
        forecast = (here.ensemble if ensemble else here.forecast)[[v]]
        ours = score(forecast, here.truth, [full], weights=weigh(weights), **here.options)[v].squeeze("metric").values
        for k, opinion in enumerate(opinions):
            theirs = opinion(other(name, v, weights, ensemble))
            if theirs is not None: agree(ours, theirs.values, f"{full} of {v}, opinion {k}")

@pytest.mark.parametrize("metric, name, weights", [(m, *way) for m in FORECASTS for way in WAYS if comparable(m, *way)])
def test_forecasts(metric, name, weights): check(metric, name, weights, FORECASTS[metric])

@pytest.mark.parametrize("metric, name, weights", [(m, *way) for m in ENSEMBLES for way in WHOLE])
def test_ensembles(metric, name, weights): check(metric, name, weights, ENSEMBLES[metric], ensemble=True)

@pytest.mark.parametrize("name, weights", WHOLE)
def test_ranks(name, weights):
    here, metrics = case(name), [f"rank={k}" for k in range(1, 6)]
    found = rank_histogram(here.ensemble, here.truth, weights=weigh(weights))
    each = score(here.ensemble, here.truth, metrics, weights=weigh(weights))
    for v in here.truth.data_vars:
        p = other(name, v, weights, True)
        agree(found[v].values, probability.rank_histogram(p.f, p.o, "number", **p.lead).transpose("lead_time", "rank").values, v)
        agree(found[v].values, each[v].values.T, v)
        if weights == "plain" and not (p.f == p.o).any():  # xskillscore shares out no tie
            counts = xs.rank_histogram(p.o, p.f, dim=p.over["dim"], member_dim="number", random_for_tied=False)
            agree(found[v].values, (counts / counts.sum("rank")).values, v)

@pytest.mark.parametrize("name", ["random", "finse", "gulf", "arome"])
def test_reliability(name):
    here = case(name)
    for v, limit in here.limits.items():
        p = other(name, v, "plain", True)
        ours = reliability(here.ensemble, here.truth, v, [limit], bins=4, weights=None).isel(threshold=0)
        theirs = xs.reliability(p.o >= limit, (p.f >= limit).mean("number"), dim=p.over["dim"], probability_bin_edges=np.arange(5) / 4)
        agree(ours.observed.values, theirs.values, v)
        agree(ours.weight.values, (theirs.samples / theirs.samples.sum("forecast_probability")).values, v)

@pytest.mark.parametrize("name, weights", [way for way in WHOLE if "10u" in KINDS[way[0]]])
def test_vector_wind(name, weights):
    here, metrics, (u, v) = case(name), ["rmse", "acc"], (other(name, n, weights) for n in ("10u", "10v"))
    stats = statistics(here.forecast, here.truth, needed_statistics(metrics), ["10u", "10v"], here.clim, weights=weigh(weights))
    ours = finish_scores(with_vector_wind(stats), metrics).vector_wind.values
    agree(ours[0], np.sqrt(continuous.mse(u.f, u.o, **u.lead) + continuous.mse(v.f, v.o, **v.lead)).values, "rmse")
    agree(ours[1], correlation(*(a + b for a, b in zip(products(u), products(v)))).values, "acc")

@pytest.mark.parametrize("name, variable", [("arome", "2t"), ("arome", "z500"), ("gulf", "10u"), ("random", "tp")])
def test_spectra(name, variable):
    "By hand with scipy; the power adds up to the variance."
    here, p, grid = case(name), other(name, variable, "plain"), Grid.from_dataset(case(name).truth)
    field, (h, w) = p.o.values[2, 1], grid.shape
    waves = np.hypot(np.arange(h)[:, None] / (h * grid.dy.mean()), np.arange(w) / (w * grid.dx.mean()))
    shell = np.rint(waves / waves[waves > 0].min()).astype(int).ravel()
    by_hand = np.bincount(shell, (dctn(field, norm="ortho") ** 2 / field.size).ravel())[1:]
    agree(power_spectrum(field[None], grid, make_shells(grid))[0], by_hand[np.bincount(shell)[1:] > 0])
    found = spectra(here.forecast, here.truth, [variable])[variable].sum("wavelength")
    agree(found.values, np.stack([x.var(p.space).mean("init_time") for x in (p.f, p.o)]))

def test_thresholds_in_32_bits():
    "0.7 in 32 bits is a little less than 0.7, and counts as reached: so it does in `scores`, for fields in 32 bits."
    truth = (random_weather()[["tp"]] * np.float32(5.6)).assign_attrs(step_hours=1.0)
    forecast = persistence(truth, np.array([3, 4, 40]), (1, 3))
    came = truth.tp.sel(time=forecast.init_time + forecast.lead_time)
    assert (came == np.float32(0.7)).sum() > 50 and not (came.astype("f8") == 0.7).any()
    table = categorical.ThresholdEventOperator().make_contingency_manager(forecast.tp, came, event_threshold=0.7)
    ours, theirs = score(forecast, truth, ["csi>0.7"], weights=None), table.transform(preserve_dims=["lead_time"])
    agree(ours.tp.values[0], theirs.critical_success_index().values)

def test_what_must_be_so():
    "Against itself the truth is perfect; the climatology has no skill against itself and no anomaly; noise does not correlate."
    here, rng = case("gulf"), np.random.default_rng(5)
    clim = here.clim[list(here.truth.data_vars)]  # it holds the mean wind speed besides
    valid = here.forecast.init_time + here.forecast.lead_time
    like = lambda ds: ds.drop_vars(["hour", "dayofyear", "time"], errors="ignore").assign_coords(here.forecast.coords)
    perfect = score(like(here.truth.sel(time=valid)), here.truth, ["rmse", "acc"], **here.options)
    by_hand = like(clim.sel(hour=valid.dt.hour, dayofyear=valid.dt.dayofyear))
    with pytest.warns(UserWarning, match="acc of 2t, 10u, 10v is undefined"):
        usual = score(like(climatology_at(clim, valid)), here.truth, ["rmse", "acc"], **here.options)
    skill = with_skill(score(by_hand, here.truth, ["rmse"]), climatology=usual)
    noisy = score(by_hand.map(lambda x: x + rng.normal(0, 2, x.shape), keep_attrs=True), here.truth, ["acc"], **here.options)
    for name in here.truth.data_vars:
        np.testing.assert_allclose(perfect[name].sel(metric="rmse"), 0, atol=1e-12)
        np.testing.assert_allclose(perfect[name].sel(metric="acc"), 1, rtol=1e-12)
        np.testing.assert_allclose(skill[name].sel(metric="skill_climatology"), 0, atol=1e-12)
        assert usual[name].sel(metric="acc").isnull().all() and (abs(noisy[name]) < 0.05).all(), name
