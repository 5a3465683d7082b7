"""When it runs: stages, the flow, the command line."""
