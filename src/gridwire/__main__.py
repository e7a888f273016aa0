"""`python -m gridwire`."""

from gridwire.cli.main import main

if __name__ == "__main__":
    main()
