"""From scans to examples: augmented views, places in them, the stream of pairs. Nothing here knows
a network or a loss."""
