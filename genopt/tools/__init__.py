"""Tools around the optimizers: comparing and timing them, pictures, the catalogue's page, data, the command line."""
