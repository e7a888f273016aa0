"""gridwire: the open event platform of the smart grid."""

__version__ = "0.1.0"
