"""Bad input: one clear sentence with the file, the variable and what to do; the input and earlier outputs stay as they were."""

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from microclimate.errors import WeatherError
from microclimate.files import sha256
from microclimate.provenance import save_dataset, verify
from microclimate.weather.open import open_weather


LAT, LON = (61.0, 60.5, 60.0), (9.0, 9.5, 10.0, 10.5)


def weather(n=8, units="K", name="t2m", mean=283.0, start="2024-06-01", lat=LAT, lon=LON):
    "Some hours of one field."
    values = np.random.default_rng(0).normal(mean, 3, (n, len(lat), len(lon))).astype("f4")
    field = ("time", "latitude", "longitude"), values, {} if units is None else dict(units=units)
    return xr.Dataset({name: field}, coords=dict(time=pd.date_range(start, periods=n, freq="h"), latitude=list(lat), longitude=list(lon)))


@pytest.fixture
def outputs(tmp_path):
    "An outputs folder that holds an earlier forecast."
    folder = tmp_path / "outputs"
    save_dataset(weather().rename(t2m="2t"), folder / "forecast.nc", {"model": "earlier"} | dict.fromkeys(
        ("weights_sha256", "config", "source", "source_sha256", "seed", "device")))
    return folder


def netcdf(ds, path, **kw):
    ds.to_netcdf(path, engine="netcdf4", **kw)
    return path


def cut_short(path, share=0.6):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def scramble(path, first, last):
    "Overwrite a share of the file's bytes with noise."
    data = bytearray(path.read_bytes())
    part = slice(int(len(data) * first), int(len(data) * last))
    data[part] = np.random.default_rng(0).integers(0, 256, len(data[part]), dtype="u1").tobytes()
    path.write_bytes(bytes(data))
    return path


def grib(path, values=283.0, name="2t"):
    import eccodes  # after pyproj, which microclimate.weather.read imports: the other order crashes when Python ends

    handle = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
    for key, value in dict(dataDate=20240601, shortName=name).items(): eccodes.codes_set(handle, key, value)
    size = eccodes.codes_get(handle, "Ni") * eccodes.codes_get(handle, "Nj")
    eccodes.codes_set_values(handle, np.random.default_rng(0).normal(values, 3, size))
    with open(path, "wb") as file: eccodes.codes_write(handle, file)
    eccodes.codes_release(handle)
    return path


def zarr(ds, path, version):
    ds.to_zarr(path, zarr_format=version, consolidated=version == 2, encoding={"t2m": dict(chunks=(4, 3, 4))})
    return path


def chunk(store):
    "The file of the store's second chunk, in either version's spelling."
    return next(p for p in (store / "t2m/1.0.0", store / "t2m/c/1/0/0") if p.is_file())


def june(change=lambda ds: ds, save=None, **kw):
    "A maker of june.nc."
    return lambda folder: netcdf(change(weather(**kw)), folder / "june.nc", **(save or {}))


def two(**kw):
    "A maker of a.nc and a b.nc that differs."
    return lambda folder: [netcdf(weather(), folder / "a.nc"), netcdf(weather(**kw), folder / "b.nc")]


def value(at, to):
    "Puts a value somewhere."
    def change(ds):
        ds["t2m"].values[at] = to
        return ds
    return change


def broken_zarr(damage, part=chunk, version=2):
    "A maker of june.zarr with one file damaged."
    def make(folder):
        store = zarr(weather(), folder / "june.zarr", version)
        damage(part(store))
        return store
    return make


def half_a_wind(ds):
    "Only x_wind, on a grid with 2-D coordinates."
    lon, lat = np.meshgrid(LON, LAT)
    flat = ds.rename(latitude="y", longitude="x", t2m="x_wind_10m").drop_vars(["x", "y"])
    return flat.assign_coords(latitude=(("y", "x"), lat), longitude=(("y", "x"), lon))


later = np.array([0] * 6 + [20, 20], "m8[m]")
no_times = dict(time=("time", np.arange(8.0), dict(units="steps")))
SHORT = "fetch or write it again"

# What makes the source in a folder; how it is opened; what the sentence says.
CASES = {
    "missing file": (lambda d: d / "june.nc", {}, "no file .*june.nc: check the path"),
    "missing file as text": (lambda d: str(d / "june.nc"), {}, "no file .*june.nc: check the path"),
    "glob without match": (lambda d: str(d / "june_*.nc"), {}, r"No file matches .*june_\*.nc: check the folder"),
    "unknown source": (lambda d: "era6", {}, "Unknown source 'era6': use nature, era5"),
    "unknown ERA5 store": (lambda d: "era5:mine", dict(time=("2024-06-01", "2024-06-02")), "Unknown ERA5 store 'era5:mine': use era5"),
    "ERA5 without times": (lambda d: "era5", {}, "say which times"),
    "nature run without a number": (lambda d: "nature:x", {}, "'nature:x' is no nature run: write nature"),
    "empty file": (lambda d: cut_short(june()(d), 0), {}, "june.nc .*it is empty"),
    "web page": (lambda d: (d / "june.nc").write_text("<html>404") and d / "june.nc", {}, "june.nc is neither NetCDF, GRIB nor Zarr"),
    "folder without Zarr": (lambda d: d, {}, "is a folder but not a Zarr store: give the files"),
    "truncated NetCDF-4": (lambda d: cut_short(june()(d)), {}, "june.nc was cut short: it has"),
    "truncated NetCDF-3": (lambda d: cut_short(june(n=99, save=dict(format="NETCDF3_64BIT"))(d)), {}, "june.nc was cut short: it has"),
    "corrupt NetCDF": (lambda d: scramble(june(n=400, save=dict(encoding={"t2m": dict(zlib=True)}))(d), 0.3, 0.5), {}, f"june.nc.*{SHORT}"),
    "truncated GRIB": (lambda d: cut_short(grib(d / "june.grib")), {}, f"june.grib.*{SHORT}"),
    "corrupt GRIB": (lambda d: scramble(grib(d / "june.grib"), 0.005, 0.5), {}, "june.grib.*(fetch or write|no field)"),
    "GRIB of other fields": (lambda d: grib(d / "june.grib", 5, "swh"), {}, "june.grib holds no field that is known and asked for"),
    "Zarr with a damaged chunk": (broken_zarr(lambda path: scramble(path, 0, 1)), {}, f"june.zarr.*{SHORT}"),
    "Zarr 3 with a truncated chunk": (broken_zarr(cut_short, version=3), {}, f"june.zarr.*{SHORT}"),
    "Zarr without a chunk": (broken_zarr(lambda path: path.unlink()), {}, "2t in .*june.zarr has 48 missing values"),
    "Zarr with truncated metadata": (broken_zarr(cut_short, lambda store: store / ".zmetadata"), {}, f"june.zarr.*{SHORT}"),
    "unknown variable": (june(), dict(variables=["2t", "temp2m"]), "Unknown variable 'temp2m': use one of"),
    "missing variable": (june(), dict(variables=["2t", "msl"]), "june.nc has no msl; what was found: 2t"),
    "nothing asked for": (june(), dict(variables=["msl"]), "june.nc holds none of .* only t2m"),
    "nothing known": (june(name="gust"), {}, "june.nc holds no variable that this package knows, only gust"),
    "missing units": (june(units=None), {}, "2t in .*june.nc has no units: write its 'units' attribute"),
    "unknown units": (june(units="degrees"), {}, "2t in .*june.nc has the units 'degrees'.*correct"),
    "units of another quantity": (june(units="m s-1"), {}, "2t in .*june.nc has the units 'm s-1'"),
    "Celsius taken for kelvin": (june(mean=11), {}, "2t in .*june.nc runs from .* K, .*look like 'degC'; correct"),
    "kelvin taken for Celsius": (june(units="degC"), {}, "2t in .*june.nc .*not possible.*'units'"),
    "hectopascal taken for pascal": (june(name="msl", mean=1012, units="Pa"), {}, "msl in .*june.nc.*'hPa'"),
    "impossible values": (june(value((3, 1, 1), 1e6)), {}, "2t in .*june.nc runs from .* to 1e.06 K"),
    "missing values": (june(value((5, 1), np.nan)), {}, "2t in .*june.nc has 4 missing values of 96, first at 2024-06-01T05:00 UTC"),
    "times twice": (june(lambda ds: ds.isel(time=[0, 1, 1, 2])), {}, "2024-06-01T01:00 UTC.*june.nc.*duplicate"),
    "times in two files": (two(mean=281.0), {}, "2t appears twice at 2024-06-01T00:00 UTC in .*a.nc and .*b.nc"),
    "irregular times": (june(lambda ds: ds.assign_coords(time=ds.time + later)), {}, "june.nc are irregular: 1.33.* h after 2024-06-01T05"),
    "times that are no times": (june(lambda ds: ds.assign_coords(no_times)), {}, "time in .*june.nc holds no times"),
    "region outside": (june(), dict(region="norway"), "june.nc: The region 72.75…57 N.*outside the data.*61…60 N, 9…10.5 E: choose"),
    "unknown region": (june(), dict(region="atlantis"), "Unknown region 'atlantis': use norway"),
    "box upside down": (june(), dict(region=(60, 61, 9, 10)), "north first"),
    "time outside": (june(), dict(time=("2023-01-01", "2023-01-02")), "june.nc covers 2024-06-01T00:00 … 2024-06-01T07:00"),
    "time partly outside": (june(), dict(time=("2024-06-01", "2024-06-02")), "outside the data; .*june.nc covers"),
    "time between the fields": (june(), dict(time=pd.DatetimeIndex(["2024-06-01T00:30"])), "no field at 2024-06-01T00:30"),
    "time ends before it begins": (june(), dict(time=("2024-06-02", "2024-06-01")), "ends before it begins"),
    "different grids": (two(lat=(62.0, 61.5, 61.0), start="2024-06-02"), {}, "a.nc and .*b.nc lie on different grids"),
    "no coordinates": (june(lambda ds: ds.rename(latitude="row", longitude="column")), {}, "june.nc has no latitude"),
    "an ensemble": (june(lambda ds: ds.expand_dims(number=[0, 1])), {}, "2t in .*june.nc has a dimension number of 2: choose"),
    "a surface that moves": (june(name="z", mean=5e3, units="m2 s-2"), {}, "z_sfc in .*june.nc changes with time"),
    "a sum that falls": (june(name="precipitation_amount_acc", units="kg m-2", mean=9), {}, "tp in .*june.nc should grow .* but falls"),
    "half a wind": (june(half_a_wind, units="m/s", mean=3), {}, "june.nc has 10u along the grid's axes, without 10v"),
}


def state(folder):
    "Every file under a folder, with its checksum."
    return {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_in_one_sentence(case, tmp_path, outputs):
    make, how, message = CASES[case]
    (folder := tmp_path / "input").mkdir()
    source = make(folder)
    before = state(tmp_path)
    with warnings.catch_warnings(), pytest.raises(WeatherError, match=message) as caught:
        warnings.simplefilter("ignore")
        open_weather(source, cache=tmp_path / "cache", **how)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500 and text.rstrip(")").rstrip()[-1] in ".!"
    assert state(tmp_path) == before and verify(outputs / "forecast.nc")["model"] == "earlier"


def test_what_is_only_unusual_is_accepted(tmp_path):
    want = open_weather(netcdf(weather(), tmp_path / "plain.nc"))
    up = weather().sortby("latitude").rename(latitude="lat", longitude="lon")
    xr.testing.assert_equal(open_weather(netcdf(up, tmp_path / "up.nc")), want)
    west = weather(lon=(-1.0, -0.5, 0.0, 0.5))
    east = west.assign_coords(longitude=west.longitude % 360)
    one, other = (open_weather(netcdf(ds, tmp_path / f"{k}.nc"), region=(61, 60, -1, 0)) for k, ds in enumerate((west, east)))
    xr.testing.assert_allclose(one, other)
    assert one.longitude.values.tolist() == [-1, -0.5, 0]
    warm = open_weather(netcdf(weather(mean=10.0, units="degC"), tmp_path / "celsius.nc"))
    assert abs(float(warm["2t"].mean()) - 283.15) < 1


def test_gaps_are_named(tmp_path):
    netcdf(weather().isel(time=[0, 1, 2, 5, 6, 7]), tmp_path / "gap.nc")
    with pytest.warns(UserWarning, match="gap.nc has 1 gap.*2024-06-01T02:00 … 2024-06-01T05:00"): ds = open_weather(tmp_path / "gap.nc")
    assert ds.attrs["gaps"] == "2024-06-01T02:00 … 2024-06-01T05:00" and ds.sizes["time"] == 6 and ds.attrs["step_hours"] == 1


def test_not_strict_warns_instead(tmp_path):
    june(value((5, 1), np.nan))(tmp_path)
    with pytest.warns(UserWarning, match="4 missing values"): ds = open_weather(tmp_path / "june.nc", strict=False)
    assert int(ds["2t"].isnull().sum()) == 4


def test_no_hidden_files_beside_the_input(tmp_path):
    grib(tmp_path / "june.grib")
    netcdf(weather(), tmp_path / "june.nc")
    before = state(tmp_path)
    open_weather(tmp_path / "june.grib")
    open_weather(tmp_path / "june.nc")
    assert state(tmp_path) == before
