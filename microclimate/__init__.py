"""Modules:

- `microclimate.assets.make_geography`: Make `orography.npz` and `coastlines.npz` from public-domain data that two package registries carry."""

__version__ = "0.0.1"
