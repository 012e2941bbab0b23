"""The archive of messages, and what is found out about a past prediction."""
