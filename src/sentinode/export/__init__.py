"""Predictions in the formats of other programs: one file a format, one line in the table of `formats`."""
