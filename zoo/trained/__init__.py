"""Trained models after their bench: their cards, and what is done with them."""
