"""Side by side with other tools in one command; each side in a process of its own."""
