"""What tells people and other programs that a job has ended."""
