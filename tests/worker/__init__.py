"""Tests with real workers: what they promise, judged by what tasks wrote down."""
