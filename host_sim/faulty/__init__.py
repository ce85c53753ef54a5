"""Drivers that fail, one way per file. compile.with_faults() puts one in a driver's place; none of them runs on CPython.

Each takes the sound driver's class and name, so that a profile cannot tell; `good` readings succeed first.
"""
