"""Calendar arithmetic on ISO dates. Deterministic: there is no "today" here."""

from __future__ import annotations

import calendar
from datetime import date, timedelta
from typing import Annotated, Any

from pydantic import Field

__all__ = ["date_difference", "shift_date"]

Amount = Annotated[int, Field(ge=-1_000_000, le=1_000_000)]
_MONTHS, _DAYS_OF_WEEK = 12, 7


def shift_date(
    start: date, years: Amount = 0, months: Amount = 0, weeks: Amount = 0, days: Amount = 0
) -> dict[str, str]:
    """The date so many years, months, weeks and days after a date (before it when negative)."""
    shifted = _months_later(start, years * _MONTHS + months) + timedelta(weeks=weeks, days=days)
    return {"date": shifted.isoformat(), "weekday": calendar.day_name[shifted.weekday()]}


def date_difference(start: date, end: date) -> dict[str, Any]:
    """Days between two dates, the weekdays (Monday to Friday) among them, and whole months and years."""
    sign = -1 if end < start else 1
    first, last = (end, start) if sign < 0 else (start, end)
    days = (last - first).days
    months = _whole_months(first, last)
    return {
        "days": sign * days,
        "weekdays": sign * _weekdays(first, days),
        "whole_months": sign * months,
        "whole_years": sign * (months // _MONTHS),
    }


def _months_later(start: date, months: int) -> date:
    """The same day of another month; its last day where it has fewer."""
    year, month = divmod(start.year * _MONTHS + start.month - 1 + months, _MONTHS)
    if not date.min.year <= year <= date.max.year:
        raise ValueError("the year would not be in 1 to 9999")
    return date(year, month + 1, min(start.day, calendar.monthrange(year, month + 1)[1]))


def _whole_months(first: date, last: date) -> int:
    months = (last.year - first.year) * _MONTHS + last.month - first.month
    return months - (_months_later(first, months) > last)


def _weekdays(first: date, days: int) -> int:
    """Mondays to Fridays among the `days` days from `first` on, the last excluded."""
    weeks, rest = divmod(days, _DAYS_OF_WEEK)
    return weeks * 5 + sum((first.weekday() + k) % _DAYS_OF_WEEK < 5 for k in range(rest))
