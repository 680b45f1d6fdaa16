"""Runs: work directory, log, signals, files."""
