"""A utility that does not exist, of any size, with the truth about it: what detectors and pipelines are measured on."""
