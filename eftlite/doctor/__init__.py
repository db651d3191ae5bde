"""``eftlite doctor``: is the installation sound, is the family sound, is it fast, and is EFT worth it here."""
