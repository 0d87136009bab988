"""Tokens → features, with fewer or cheaper tokens, and their task heads. Every system is one file."""
