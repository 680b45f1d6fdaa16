"""Runs: settings, work directory, log, signals and files."""
