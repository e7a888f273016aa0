"""Detectors: what they are given and what they tell. The worker that feeds them is `gridwire.grid.watch.worker`."""
