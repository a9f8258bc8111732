"""Sizes, in elements, at which XLA's CPU back end makes less of one form of the same work than of another."""

ONE_PASS = 4096  # sums of fewer are made in one pass
SMALL = 8192  # what is done to an array of no more costs less than that it is done
