"""How a program runs: its workdir, its part of a job, its end, what it records."""
