"""What recipes train on, by name: `@source("crops", CropConfig)`, one source a file."""

from smalti.training.sources.base import Source, source

__all__ = ["Source", "source"]
