"""Serving: a server with OpenAI's endpoints, and a chat in the terminal."""
