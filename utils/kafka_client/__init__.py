"""Everything that touches kafka-python: connections, clients, topics, rights, transactions."""
