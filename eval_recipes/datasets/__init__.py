"""Labelled data sets as their publishers ship them -> checked lists of clips."""
