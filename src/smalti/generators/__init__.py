"""Noise, a class, text or the past become tokens."""
