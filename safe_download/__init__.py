"""Files from the network: whole and verified under their name, or not there at all."""
