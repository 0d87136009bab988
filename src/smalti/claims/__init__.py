"""One file a system: the smallest honest experiment that shows its paper's claim here."""
