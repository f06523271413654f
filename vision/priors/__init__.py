"""Priors that fit the boxes of a data set: which boxes to fit, the fit, and what it covers."""
