"""The simulated city: firmware unmodified on the real MicroPython VM, in virtual time. See README.md."""
