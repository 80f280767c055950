"""Fuzzing: cases that mutate, run against the compiled core under sanitizers. See `make fuzz`."""
