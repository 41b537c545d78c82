"""Speed, memory and error levels, as programs that print them."""
