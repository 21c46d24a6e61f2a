"""HEAR modules of other people: run their code, keep old ones working, check what they return."""
