#!/usr/bin/env bash
# Tool: ecCodes 2.42.0 from PyPI (eccodes==2.42.0), numpy 2.2.6.
# Input: valid GRIB 2. A Lambert grid of 5 by 4 points, 50 km apart, whose first point is 60 N 10 E, once with rows that
#   scan to the north (jScansPositively=1) and once with rows that scan to the south (jScansPositively=0, GRIB's default).
# One would guess: the keys `latitudes` and `longitudes` follow the scanning mode, as they do on a latitude-longitude
#   grid, so the last row lies south of the first in the second message.
# What happens: both messages get the same points. Rows always run north of the first point, whatever the flag says,
#   and nothing is said of it: a field whose rows scan to the south is put up to 300 km away from its place.
#   The flag is not lost: the key itself reads 0. On a latitude-longitude grid the points follow it.
# Seen (latitude of the first and of the last point):
#   lambert, to the north: 60.0 61.437
#   lambert, to the south: 60.0 61.437
#   regular_ll, to the south: 60.0 59.25
# The script fails where ecCodes behaves otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check eccodes==2.42.0 eccodeslib==2.42.0 numpy==2.2.6

cat > "$folder/points.py" <<'END'
import eccodes
import numpy

first = dict(latitudeOfFirstGridPointInDegrees=60, longitudeOfFirstGridPointInDegrees=10)
lambert = dict(gridType="lambert", Nx=5, Ny=4, **first, LaDInDegrees=63, LoVInDegrees=15, Latin1InDegrees=63,
               Latin2InDegrees=63, DxInMetres=50000, DyInMetres=50000, shapeOfTheEarth=6)
regular = dict(Ni=5, Nj=4, **first, latitudeOfLastGridPointInDegrees=59.25, longitudeOfLastGridPointInDegrees=11,
               iDirectionIncrementInDegrees=0.25, jDirectionIncrementInDegrees=0.25)


def ends(sample, keys, north):
    handle = eccodes.codes_grib_new_from_samples(sample)
    for key, value in {**keys, "jScansPositively": north}.items(): eccodes.codes_set(handle, key, value)
    eccodes.codes_set_values(handle, numpy.arange(20.0))
    assert eccodes.codes_get(handle, "jScansPositively") == north
    latitudes = eccodes.codes_get_array(handle, "latitudes")
    return f"{latitudes[0]:.1f} {round(float(latitudes[-1]), 3)}"


print("lambert, to the north:", ends("GRIB2", lambert, 1))
print("lambert, to the south:", ends("GRIB2", lambert, 0))
print("regular_ll, to the south:", ends("regular_ll_sfc_grib2", regular, 0))
END
seen=$("$folder/venv/bin/python" "$folder/points.py")
echo "$seen"
[ "$seen" = "lambert, to the north: 60.0 61.437
lambert, to the south: 60.0 61.437
regular_ll, to the south: 60.0 59.25" ] || { echo "ecCodes behaves otherwise today"; exit 1; }
