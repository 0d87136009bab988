"""Shared blocks, one idea a file; they import torch and nothing of the other rooms."""
