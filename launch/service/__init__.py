"""A node as a service of its PC: started, kept alive, asked how it is, and ended, with or without systemd."""
