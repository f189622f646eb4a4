"""One suite for every store, and what they are compared by."""
