#!/usr/bin/env bash
# Tool: xarray 2026.9.0 (with netCDF4 1.7.5.1.post1, numpy 2.4.6, pandas 3.1.1).
# Input: a valid CF file, as earlier releases read it without options: `init_time` ("seconds since 1970-01-01") and
#   `lead_time`, standard_name "forecast_period", units "seconds", 86400 in whole numbers.
# One would guess: lead_time is a time span, as it was in releases before, so init_time + lead_time is a day later; or,
#   where it stays a number, that a date plus a number is refused, as `datetime` and pandas refuse it.
# What happens: `decode_timedelta` has become False, lead_time stays 86400 (int64), and the sum is taken as
#   NANOSECONDS, without an error and without a warning: valid times are a day too early, all equal to the start.
#   A writer can prevent it: the attribute dtype = "timedelta64[ns]" on lead_time makes xarray decode it by itself.
# Seen:
#   int64 2024-06-01T00:00:00.000086400
#   timedelta64[ns] 2024-06-02T00:00:00.000000000
# The script fails where xarray behaves otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check xarray==2026.9.0 netCDF4==1.7.5.1.post1 numpy==2.4.6 pandas==3.1.1

cat > "$folder/look.py" <<'END'
import sys, warnings
import netCDF4, numpy, xarray

assert xarray.__version__ == "2026.9.0"
warnings.simplefilter("error")  # there is none to be heard
for extra in ({}, {"dtype": "timedelta64[ns]"}):
    with netCDF4.Dataset(sys.argv[1], "w") as file:
        for name, units, value, about in (("init_time", "seconds since 1970-01-01", 1717200000, {}), ("lead_time", "seconds", 86400, extra)):
            file.createDimension(name, 1)
            made = file.createVariable(name, "i8", (name,))
            made.setncatts(dict(units=units) | about)
            made[:] = value
        file["lead_time"].standard_name = "forecast_period"
    with xarray.open_dataset(sys.argv[1], engine="netcdf4") as ds:
        valid = ds["init_time"] + ds["lead_time"]
        print(ds["lead_time"].dtype, valid.values.astype("M8[ns]")[0, 0])
END
seen=$("$folder/venv/bin/python" "$folder/look.py" "$folder/times.nc")
echo "$seen"
expected='int64 2024-06-01T00:00:00.000086400
timedelta64[ns] 2024-06-02T00:00:00.000000000'
[ "$seen" = "$expected" ] || { echo "xarray behaves otherwise now"; exit 1; }
