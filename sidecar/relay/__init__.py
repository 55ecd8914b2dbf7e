"""The data plane: one worker process relays client sessions to the engine and measures every command."""
