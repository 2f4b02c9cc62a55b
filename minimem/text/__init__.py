"""Text stores: what is kept is text; every unit read carries the ids of the turns it was made from."""
