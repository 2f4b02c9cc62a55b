"""Every memory mechanism of a survey, short enough to read, checked against somebody else's code."""

__version__ = "0.1.0"
