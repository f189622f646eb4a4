"""A page that starts a sync of orders, and shows how far it is."""
