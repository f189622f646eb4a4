"""A Django page that starts a change of prices, and shows how far it is."""
