"""Wires: each translates its protocol to the engine's requests and back, and decides nothing."""
