"""Speed and memory, measured side by side, and trainings compared."""
