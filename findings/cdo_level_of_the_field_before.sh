#!/usr/bin/env bash
# Tool: CDO 2.1.1 (Debian 12: cdo 2.1.1-1+deb12u1); the file is made with netCDF4 1.7.2 and numpy 2.2.6 from PyPI.
# Input: valid CF. Two fields along time, latitude, longitude: `t2m` lists the scalar coordinate `height` (2 m) in its
#   attribute `coordinates`, `msl` (pressure at mean sea level) comes after it and lists none.
# One would guess: `msl` has no height, so CDO puts it at the surface (level 0), wherever it stands in the file.
# What happens: `msl` takes the height of the field before it. CDO says that it lies at 2 m, and writes
#   msl:coordinates = "height" into everything that it makes of the file. With `msl` first, it is at level 0.
#   It says nothing of this. So fields without a level have to be written before those with one.
# Seen:
#   t2m first: levels of t2m, msl: 2 2; coordinates of msl after `timmean`: height
#   msl first: levels of msl, t2m: 0 2; coordinates of msl after `timmean`: none
# The script fails where CDO behaves otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if ! command -v cdo > /dev/null; then
  apt-get -qq update > /dev/null
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends cdo=2.1.1-1+deb12u1 > /dev/null
fi
cdo --version 2>&1 | grep -q "version 2.1.1 " || { echo "another version of CDO: $(cdo --version 2>&1 | head -1)"; exit 1; }
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check netCDF4==1.7.2 numpy==2.2.6

cat > "$folder/make.py" <<'END'
import sys
import netCDF4, numpy

def field(file, name, coordinates, **about):
    made = file.createVariable(name, "f4", ("time", "latitude", "longitude"))
    made.setncatts(about | ({"coordinates": coordinates} if coordinates else {}))
    made[:] = numpy.arange(24).reshape(2, 3, 4)

axes = dict(time=("f8", [0, 1], dict(standard_name="time", units="hours since 2024-06-01", axis="T")),
            latitude=("f8", [62, 61, 60], dict(standard_name="latitude", units="degrees_north", axis="Y")),
            longitude=("f8", [4, 5, 6, 7], dict(standard_name="longitude", units="degrees_east", axis="X")))
fields = dict(t2m=("height", dict(standard_name="air_temperature", units="K")),
              msl=(None, dict(standard_name="air_pressure_at_mean_sea_level", units="Pa")))
path, *order = sys.argv[1:]
with netCDF4.Dataset(path, "w") as file:
    file.Conventions = "CF-1.11"
    for name, (kind, values, about) in axes.items():
        file.createDimension(name, None if name == "time" else len(values))
        axis = file.createVariable(name, kind, (name,))
        axis.setncatts(about)
        axis[:] = values
    height = file.createVariable("height", "f8")
    height.setncatts(dict(standard_name="height", units="m", positive="up", axis="Z"))
    height[...] = 2
    for name in order: field(file, name, fields[name][0], **fields[name][1])
END
cat > "$folder/coordinates.py" <<'END'
import sys
import netCDF4

with netCDF4.Dataset(sys.argv[1]) as file: print(getattr(file["msl"], "coordinates", "none"))
END

look() {  # the two names, in the order of the file
  "$folder/venv/bin/python" "$folder/make.py" "$folder/in.nc" "$1" "$2"
  levels=$(cdo -s showlevel "$folder/in.nc" 2> "$folder/said" | xargs)
  cdo -s -O timmean "$folder/in.nc" "$folder/mean.nc" 2>> "$folder/said"
  [ ! -s "$folder/said" ] || { cat "$folder/said"; exit 1; }
  echo "$1 first: levels of $1, $2: $levels; coordinates of msl after \`timmean\`: $("$folder/venv/bin/python" "$folder/coordinates.py" "$folder/mean.nc")"
}
seen=$(look t2m msl; look msl t2m)
echo "$seen"
expected='t2m first: levels of t2m, msl: 2 2; coordinates of msl after `timmean`: height
msl first: levels of msl, t2m: 0 2; coordinates of msl after `timmean`: none'
[ "$seen" = "$expected" ] || { echo "CDO behaves otherwise now"; exit 1; }
