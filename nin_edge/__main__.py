"""`python -m nin_edge`: the same as the `nin-edge` command."""

from nin_edge.cli import main

if __name__ == "__main__":
    main()
