"""What the topics say: messages decoded, joined and counted, the figures of each model, drift."""
