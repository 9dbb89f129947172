"""Forecasts against the truth: metrics, events, ensembles, spectra and stations."""
