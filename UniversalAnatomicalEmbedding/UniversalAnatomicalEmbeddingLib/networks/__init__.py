"""Networks that give every voxel a unit vector saying where in the body it is."""
