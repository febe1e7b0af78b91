"""Find, isolate and load plugins, and resolve the names of what they register."""
