"""How long the commands take, against plain Docker on the same files, on the same machine, in the same minutes."""
