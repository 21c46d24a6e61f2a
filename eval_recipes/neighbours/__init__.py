"""Nearest neighbours without training: exact search, vote, accuracy."""
