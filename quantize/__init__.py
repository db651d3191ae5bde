"""Making and comparing quantizations of a family; imports eftlite, never the reverse."""
