"""`python -m service` is `percept`."""

from service.cli import main

if __name__ == "__main__":
    main()
