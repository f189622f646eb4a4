"""Where jobs are kept: ``base.Store`` and its two implementations."""
