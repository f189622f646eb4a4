"""Tests in which things die at random moments; a seed repeats the moments."""
