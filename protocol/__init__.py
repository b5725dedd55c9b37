"""What crosses a wire or a disk: messages, sockets' rules, the rig file, the calibration, clock mathematics."""
