"""Baselines, saved models, rollouts, ensembles and transfer to another region."""
