"""The command ``uae``, one file per command: parse, call the session, write files. No algorithm
lives here, and no other room imports this one."""
