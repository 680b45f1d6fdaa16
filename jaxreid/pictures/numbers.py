"""Numbers as text for people: probabilities, rates, priors, times."""

import datetime
import math

# Seconds from which on a time is a date: 1973. Earlier ones count from the start of a recording.
_DATES_FROM = 1e8


def probability_text(probability: float) -> str:
    """Return a probability in percent, never a certain one: "97%", "0.4%", "> 99.9%"."""
    if probability > 0.999:
        return "> 99.9%"
    if probability < 0.001:
        return "< 0.1%"
    return f"{probability:.{1 if probability < 0.1 or probability > 0.99 else 0}%}"


def rate_text(rate: float, resolution: float = 0.0) -> str:
    """Return a false-match rate: "1 in 2,400"; "< 1 in ..." where it cannot be seen."""
    digits = max(0, len(f"{1 / rate:.0f}") - 2)
    text = f"1 in {round(1 / rate, -digits):,.0f}"
    return f"< {text}" if rate <= resolution else text


def prior_text(prior: float) -> str:
    """Return a prior: "1 in 120", "50%"."""
    return f"1 in {1 / prior:,.0f}" if prior < 0.2 else f"{prior:.0%}"


def time_text(seconds: float) -> str:
    """Return a time: a date in UTC, or hours, minutes and seconds; "" if it is not known."""
    if not math.isfinite(seconds):
        return ""
    if seconds >= _DATES_FROM:
        try:
            moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
        except (OverflowError, OSError, ValueError):
            return f"{seconds:g} s"
        return f"{moment:%Y-%m-%d %H:%M:%S}"
    minutes, second = divmod(abs(seconds), 60)
    hours, minute = divmod(int(minutes), 60)
    sign = "-" if seconds < 0 else ""
    return f"{sign}{hours}:{minute:02d}:{second:04.1f}" if hours < 1e5 else f"{seconds:g} s"
