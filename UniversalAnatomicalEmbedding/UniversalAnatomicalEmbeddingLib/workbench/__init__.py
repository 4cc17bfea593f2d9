"""The landmarks of a scene at work, a face without pixels: what can be done, what is done, and what
follows from it. Every face drives it; no toolkit is known here."""
