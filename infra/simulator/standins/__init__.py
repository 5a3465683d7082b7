"""What stands in, on a simulated machine, for programs that would change a system for real."""
