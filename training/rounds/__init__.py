"""Between two rounds of UAE-M: registration within patients and common points between them, made
with the model of the round before."""
