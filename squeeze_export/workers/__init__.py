"""Every process that this package starts on this machine: how it is started, called, limited in time, and ended."""
