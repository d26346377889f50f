"""A slide in, the probabilities of its tiles out."""
