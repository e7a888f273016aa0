"""Validation, estimation and editing of readings (VEE), as a stage of the grid workers.

rules.py        every rule: its name, what it checks, its settings with their defaults, its quality code
config.py       which settings hold for which class of usage points
calendar.py     local days of 23, 24 and 25 hours, and which day is like which
window.py       the readings of some channels as a matrix of intervals
validation.py, estimation.py    the rules themselves, vectorised over channels
state.py        what the stage knows: every reading of the last days
pipeline.py     readings in, verdicts and estimates out
"""
