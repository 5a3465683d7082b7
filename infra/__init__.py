"""Where it runs: stores, machines, the agent on the box."""
