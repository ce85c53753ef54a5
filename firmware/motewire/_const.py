"""`const` for both worlds: the compiler's on MicroPython, the identity on CPython."""

try:
    from micropython import const  # pyright: ignore[reportAssignmentType]
except ImportError:

    def const(value):
        """Return `value` (CPython has no compile-time constants)."""
        return value
