"""The demo utility: six real low-voltage grids with real load shapes, replayed through the Kafka endpoint.

utility.build()           the network model and every unit's energy
replay.run_replay(...)    readings, some of them late, and frames of real meters, some of them damaged
truth.Truth               what the sums must be, computed without the platform
frames/                   telegrams and frames of real meters, see its README
"""
