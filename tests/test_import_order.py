"""Whatever is imported first: a projected file is opened and regridded, and Python ends cleanly.

ecCodes above 2.42 loads a second PROJ for all of the process; after that, pyproj crashes.
"""

import subprocess
import sys

import numpy as np
import pandas as pd
import pyproj
import pytest
import xarray as xr

ORDERS = {
    "xarray": "import xarray; xarray.open_dataset('plain.nc').load()",  # its guess imports cfgrib
    "cfgrib": "import cfgrib",
    "eccodes": "import eccodes",
    "pyproj": "import pyproj",
    "cartopy": "import cartopy.crs",
    "cartopy_after_eccodes": "import eccodes, cartopy.crs",
    "microclimate": "import microclimate, eccodes",
}
FORECAST = """
import numpy as np
from microclimate.figures import maps
from microclimate.grid import regular_grid
from microclimate.regrid import regrid
from microclimate.weather.open import open_weather

weather = open_weather("projected.nc")
target = regular_grid(60.6, 60.4, 9.4, 9.8, step=0.1)
found = regrid(weather, target)["2t"].values
assert abs(found - (280 + target.lon2d)).max() < 0.01, found
print("the warm edge lies in the east")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A plain file, and one on a Lambert grid whose temperature is 280 K plus the longitude."
    folder = tmp_path_factory.mktemp("order")
    lambert = pyproj.CRS("+proj=lcc +lat_0=60 +lon_0=9 +lat_1=60 +lat_2=60 +R=6371000")
    x, y = np.arange(30) * 2500.0, np.arange(40)[::-1] * 2500.0
    lon, lat = pyproj.Proj(lambert)(*np.meshgrid(x, y), inverse=True)
    hours = pd.date_range("2024-06-01", periods=3, freq="h")
    ds = xr.Dataset(
        {"2t": (("time", "y", "x"), np.tile(280 + lon, (3, 1, 1)))},
        coords={
            "time": hours,
            "y": ("y", y, {"units": "m", "standard_name": "projection_y_coordinate"}),
            "x": ("x", x, {"units": "m", "standard_name": "projection_x_coordinate"}),
            "latitude": (("y", "x"), lat),
            "longitude": (("y", "x"), lon),
        },
    )
    ds["2t"].attrs = {"units": "K", "grid_mapping": "crs"}
    ds["crs"] = ((), 0, lambert.to_cf())
    ds.to_netcdf(folder / "projected.nc")
    ds[["time"]].to_netcdf(folder / "plain.nc")
    return folder


@pytest.mark.parametrize("first", ORDERS)
def test_any_order_of_imports(first, folder):
    program = ORDERS[first] + FORECAST
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, f"exit status {run.returncode}: {run.stderr[-2000:]}"
    assert run.stdout == "the warm edge lies in the east\n"
