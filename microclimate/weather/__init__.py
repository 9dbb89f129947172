"""Weather from anywhere, as one standard Dataset."""
