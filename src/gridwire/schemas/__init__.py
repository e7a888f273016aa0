"""What schemas mean: which text is one, and whether a reader of one understands what was written with another."""
