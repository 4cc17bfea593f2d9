"""How good a model is: errors on landmarks and on known warps. Nothing here changes a model."""
