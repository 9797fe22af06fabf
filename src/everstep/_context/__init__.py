"""The parts of `Context`, by what they are for."""
