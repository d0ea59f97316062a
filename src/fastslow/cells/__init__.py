"""One time step of a recurrent cell, one kind a file."""
