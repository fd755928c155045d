"""Pure mathematics of routing and learning: no Ray, no I/O, no clock, no globals."""
