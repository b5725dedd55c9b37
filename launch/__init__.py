"""The command line and everything that starts processes. Nobody imports this room."""
