"""What runs the services, and how each is told from the others: one interface, one room or folder for each engine."""
