"""One script per question; the answers stand in docs/results.md."""
