"""A sync of 50,000 orders that survives the death of its workers."""
