"""Pixels from slide files, the tissue on them, the tiles that cover it, and what people drew on it."""
