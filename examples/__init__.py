"""Programs that show what jobkit does."""
