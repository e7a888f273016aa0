"""The grid as a customer of the platform: readings, formats, network model, validation, loads."""
