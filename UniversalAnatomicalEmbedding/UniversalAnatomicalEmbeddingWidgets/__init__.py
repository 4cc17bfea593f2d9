"""The sections of the desktop panel: each binds the widgets of its section to the logic and decides nothing itself."""
