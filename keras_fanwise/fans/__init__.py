"""How many inputs feed a unit, and how many units an input feeds."""
