"""What is learned from examples: losses, the training module, its start from earlier weights,
several processes, and the measure while it trains."""
