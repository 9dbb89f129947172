"""Make `orography.npz` and `coastlines.npz` from public-domain data that two package registries carry."""
#     apt-get download ferret-datasets && dpkg -x ferret-datasets_*.deb ferret
#     npm pack world-atlas@2.0.2 && tar xzf world-atlas-2.0.2.tgz
#     python microclimate/assets/make_geography.py ferret/usr/share/ferret-vis/data/etopo5.cdf package
#
# Needs numpy, scipy, shapely, and xarray with netCDF4. Takes some seconds. See README.md beside this file.
# (Comments, because nbdev makes an index page of every module whose docstring is longer than three lines.)
import json, sys
from pathlib import Path
import numpy as np, shapely, xarray as xr
from scipy.ndimage import median_filter

NORTH, SOUTH, WEST, EAST = 85, 45, -30, 60  # degrees: northern Europe and the seas around it
MINUTES = 5                                 # the spacing of ETOPO5, arc minutes
SUB = 5                                     # land is counted on SUB x SUB points of each cell


def decode(file):
    "The arcs of a TopoJSON file as a list of (n, 2) longitude, latitude arrays, and the parsed file."
    topo = json.loads(Path(file).read_text())
    scale, shift = (np.array(topo['transform'][k]) for k in ('scale', 'translate'))
    return [np.cumsum(np.array(a), axis=0) * scale + shift for a in topo['arcs']], topo


def ring(arcs, numbers):
    "One closed ring from arc numbers; `~i` is arc i backwards, and joined arcs share their end point."
    parts = [arcs[i] if i >= 0 else arcs[~i][::-1] for i in numbers]
    return np.concatenate([parts[0], *[p[1:] for p in parts[1:]]])


def polygons(arcs, geometry):
    "Every polygon of a TopoJSON geometry (collection) as shapely polygons."
    if geometry['type'] == 'GeometryCollection':
        return [p for g in geometry['geometries'] for p in polygons(arcs, g)]
    groups = geometry['arcs'] if geometry['type'] == 'MultiPolygon' else [geometry['arcs']]
    return [shapely.Polygon(unwrap(ring(arcs, rings[0])), [unwrap(ring(arcs, r)) for r in rings[1:]]) for rings in groups]


def unwrap(points):
    "Longitudes without jumps, centred near Greenwich: world-atlas has sewn Siberia together across the date line."
    lon = np.unwrap(points[:, 0], period=360)
    return np.column_stack([lon - 360 * np.round(lon.mean() / 360), points[:, 1]])


def arc_users(geometry):
    "How many geometries use each arc: an arc used by two countries is a land border, by one a coast."
    count = {}
    for g in geometry['geometries']:
        flat, todo = set(), [g.get('arcs', [])]
        while todo:
            x = todo.pop()
            todo.extend(x) if isinstance(x, list) else flat.add(x if x >= 0 else ~x)
        for i in flat: count[i] = count.get(i, 0) + 1
    return count


def orography(etopo5):
    "Elevation of the solid surface on the crop, metres, rows from north to south; the sea floor becomes 0."
    z = xr.open_dataset(etopo5)['ROSE'].sortby('ETOPO05_Y', ascending=False)
    z = z.assign_coords(ETOPO05_X=(z.ETOPO05_X + 180) % 360 - 180).sortby('ETOPO05_X')
    z = z.sel(ETOPO05_Y=slice(NORTH + .01, SOUTH - .01), ETOPO05_X=slice(WEST - .01, EAST + .01))
    metres, around = np.clip(z.values, 0, None), median_filter(np.clip(z.values, 0, None), 3)
    metres = np.where(np.abs(metres - around) > 600, around, metres)  # single wrong cells, such as a hole at 63 N 12.8 E
    exact = 60 / MINUTES  # the file's own coordinates are rounded
    return np.round(z.ETOPO05_Y.values * exact) / exact, np.round(z.ETOPO05_X.values * exact) / exact, np.round(metres).astype('int16')


def land_fraction(lat, lon, land):
    "Percent of each cell that is land, counted on SUB x SUB points."
    step = MINUTES / 60
    inside = ((np.arange(SUB) + 0.5) / SUB - 0.5) * step
    x, y = np.meshgrid((lon[:, None] + inside).ravel(), (lat[:, None] + inside).ravel())
    hit = np.zeros(x.shape, bool)
    for polygon in land:
        w, s, e, n = polygon.bounds
        cols, rows = np.flatnonzero((x[0] >= w) & (x[0] <= e)), np.flatnonzero((y[:, 0] >= s) & (y[:, 0] <= n))
        if len(cols) == 0 or len(rows) == 0: continue
        box = np.s_[rows[0]:rows[-1] + 1, cols[0]:cols[-1] + 1]
        shapely.prepare(polygon)
        hit[box] |= shapely.contains_xy(polygon, x[box], y[box])
    share = hit.reshape(len(lat), SUB, len(lon), SUB).mean((1, 3))
    return np.round(100 * share).astype('uint8')


def pack(lines, tolerance, box=None):
    "Simplify, clip and quantise lines: int16 vertices, int32 offsets, and the scale and shift that undo it."
    keep = []
    for line in lines:
        g = shapely.simplify(shapely.LineString(line), tolerance)
        if box is not None: g = shapely.intersection(g, shapely.box(*box))
        parts = [p for p in getattr(g, 'geoms', [g]) if p.geom_type == 'LineString' and p.length > 2 * tolerance]
        keep += [shapely.get_coordinates(p) for p in parts]
    w, s, e, n = box or (-180, -90, 180, 90)
    shift = np.array([(w + e) / 2, (s + n) / 2])
    scale = np.array([e - w, n - s]) / 65534
    points = np.round((np.concatenate(keep) - shift) / scale).astype('int16')
    return points, np.cumsum([0] + [len(k) for k in keep]).astype('int32'), scale, shift


def lines_of(arcs, numbers):
    "The chosen arcs, cut at the date line, without the seams along it and the pole that only close polygons."
    out = []
    for i in numbers:
        a = arcs[i]
        seam = (np.abs(a[:-1, 0]) > 179.99) & (np.abs(a[1:, 0]) > 179.99) | (a[:-1, 1] < -89.9) & (a[1:, 1] < -89.9)
        seam |= np.abs(np.diff(a[:, 0])) > 180
        out += [p for p in np.split(a, np.flatnonzero(seam) + 1) if len(p) > 1]
    return out


def main(etopo5, atlas):
    here, atlas = Path(__file__).parent, Path(atlas)
    arcs10, topo10 = decode(atlas / 'land-10m.json')
    lat, lon, z = orography(etopo5)
    land = land_fraction(lat, lon, polygons(arcs10, topo10['objects']['land']))
    z = np.where(land > 0, z, 0).astype('int16')
    np.savez_compressed(here / 'orography.npz', elevation=z, land=land, north=lat[0], west=lon[0], step=MINUTES / 60)

    arcs50, topo50 = decode(atlas / 'land-50m.json')
    carcs, ctopo = decode(atlas / 'countries-50m.json')
    borders = [i for i, n in arc_users(ctopo['objects']['countries']).items() if n > 1]
    box = WEST, SOUTH, EAST, NORTH
    out = {}
    for name, lines, tolerance, clip in (('10', lines_of(arcs10, range(len(arcs10))), 0.002, box),
                                         ('50', lines_of(arcs50, range(len(arcs50))), 0.01, None),
                                         ('_borders', lines_of(carcs, borders), 0.01, None)):
        out |= dict(zip((f'lines{name}', f'offsets{name}', f'scale{name}', f'shift{name}'), pack(lines, tolerance, clip)))
    np.savez_compressed(here / 'coastlines.npz', **out)
    for f in ('orography.npz', 'coastlines.npz'):
        arrays = np.load(here / f)
        print(f, (here / f).stat().st_size, {k: arrays[k].shape for k in arrays})


if __name__ == '__main__':
    main(*sys.argv[1:])
