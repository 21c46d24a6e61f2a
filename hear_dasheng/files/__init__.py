"""Files on this disk: atomic writes and locks. Imports nothing of the rest of the package."""
