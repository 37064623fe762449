"""What is installed here, whether it runs, and the command that fixes what does not."""
