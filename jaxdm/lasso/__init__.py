"""Many lassos on one design, each with a certificate."""
