"""Integers of any size as decimal text and back.

Python refuses to convert more than a few thousand digits, because its own algorithm takes time quadratic in their number. These halve the
number instead; the limit on the size of one integer (`Limits.int_bits`) is the caller's to check.
"""

from __future__ import annotations

# Python lets users set its own limit as low as 640 digits.
DIRECT_DIGITS = 600
DIRECT_BITS = 1990


def to_text(value: int) -> str:
    """The decimal digits of an integer."""
    if value.bit_length() <= DIRECT_BITS:
        return int.__repr__(value)
    import decimal

    powers: dict[int, decimal.Decimal] = {}

    def convert(part: int, bits: int) -> decimal.Decimal:
        if bits <= DIRECT_BITS:
            return decimal.Decimal(part)
        low_bits = bits >> 1
        high = part >> low_bits
        low = part - (high << low_bits)
        if low_bits not in powers:
            powers[low_bits] = decimal.Decimal(2) ** low_bits
        return convert(high, bits - low_bits) * powers[low_bits] + convert(low, low_bits)

    with decimal.localcontext() as context:
        context.prec, context.Emax, context.Emin = decimal.MAX_PREC, decimal.MAX_EMAX, decimal.MIN_EMIN
        context.traps[decimal.Inexact] = True
        text = str(convert(abs(value), value.bit_length()))
    return f"-{text}" if value < 0 else text


def from_text(text: str) -> int:
    """The integer of a decimal text: digits, with or without a minus sign."""
    if text.startswith("-"):
        return -from_text(text[1:])
    powers: dict[int, int] = {}

    def convert(digits: str) -> int:
        if len(digits) <= DIRECT_DIGITS:
            return int(digits)
        low = len(digits) >> 1
        if low not in powers:
            powers[low] = 10**low
        return convert(digits[:-low]) * powers[low] + convert(digits[-low:])

    return convert(text)
