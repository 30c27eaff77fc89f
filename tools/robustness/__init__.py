"""What `make stress` does: kills, malformed inputs and hostile places, each in a process of its own."""
