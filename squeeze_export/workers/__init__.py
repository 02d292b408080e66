"""Every process that this package starts on this machine: started, spoken with, held to a time limit, and ended, in one place."""
