"""The pretrained models: what each is, how it is built from its weights, which are on this
computer, and how published ones get here. What is listed is listed without torch; nothing here
embeds a scan."""
