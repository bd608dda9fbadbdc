"""The functions that users call: one module per op, named after it."""
