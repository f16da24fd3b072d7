"""A trained checkpoint for people and programs: a server, a chat in the terminal, a demo page."""
