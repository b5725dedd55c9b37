"""The PCs of a rig over SSH: headstream brought there, nodes started, ended, asked and read."""
