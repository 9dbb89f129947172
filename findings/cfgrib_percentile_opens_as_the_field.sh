#!/usr/bin/env bash
# Tool: cfgrib 0.9.15.1 with ecCodes 2.42.0, xarray 2025.6.1 and numpy 2.2.6 from PyPI.
# Input: valid GRIB 2. One message of an ensemble's product: the 90th percentile of the temperature at 2 m
#   (product definition template 6, percentileValue 90), as forecast centres hand them out beside the forecast.
# One would guess: the percentile is seen: another name, a coordinate, or at least an attribute that says 90.
# What happens: the Dataset holds `t2m`, "2 metre temperature", stepType "instant", with the coordinates of a plain
#   forecast. No attribute and no coordinate has the percentile, and nothing warns of it, so that a percentile
#   is taken for the forecast itself. It is read where it is asked for by name: read_keys=["percentileValue"].
# Seen:
#   t2m | 2 metre temperature | instant | heightAboveGround latitude longitude step time valid_time | says 90: False
#   with read_keys: GRIB_percentileValue 90
# The script fails where cfgrib behaves otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check cfgrib==0.9.15.1 eccodes==2.42.0 eccodeslib==2.42.0 \
  xarray==2025.6.1 numpy==2.2.6

cat > "$folder/open.py" <<'END'
import sys
import cfgrib
import eccodes
import numpy

path = sys.argv[1]
keys = dict(
    Ni=4, Nj=3, latitudeOfFirstGridPointInDegrees=61, longitudeOfFirstGridPointInDegrees=9,
    latitudeOfLastGridPointInDegrees=60, longitudeOfLastGridPointInDegrees=10.5, iDirectionIncrementInDegrees=0.5,
    jDirectionIncrementInDegrees=0.5, dataDate=20240601, dataTime=0, productDefinitionTemplateNumber=6, discipline=0,
    parameterCategory=0, parameterNumber=0, typeOfFirstFixedSurface=103, scaleFactorOfFirstFixedSurface=0,
    scaledValueOfFirstFixedSurface=2, percentileValue=90, stepRange=6)
with open(path, "wb") as file:
    handle = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
    for key, value in keys.items(): eccodes.codes_set(handle, key, value)
    eccodes.codes_set_values(handle, numpy.full(12, 300.0))
    eccodes.codes_write(handle, file)

ds = cfgrib.open_dataset(path, indexpath="")
(name,) = ds.data_vars
about = {**ds.attrs, **ds[name].attrs}
told = any("ercentile" in f"{key} {value}" or str(value) == "90" for key, value in about.items())
print(name, ds[name].attrs["long_name"], ds[name].attrs["GRIB_stepType"], " ".join(sorted(ds.coords)), f"says 90: {told}", sep=" | ")
asked = cfgrib.open_dataset(path, indexpath="", read_keys=["percentileValue"])
print("with read_keys: GRIB_percentileValue", asked[name].attrs["GRIB_percentileValue"])
END
seen=$("$folder/venv/bin/python" "$folder/open.py" "$folder/p90.grib2")
echo "$seen"
[ "$seen" = "t2m | 2 metre temperature | instant | heightAboveGround latitude longitude step time valid_time | says 90: False
with read_keys: GRIB_percentileValue 90" ] || { echo "cfgrib behaves otherwise today"; exit 1; }
