"""Values everything else is built from: event batches, limits, errors, clock. Imports nothing of ours."""
