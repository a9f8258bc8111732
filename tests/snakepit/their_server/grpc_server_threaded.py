"""The script of the double in its threaded mode."""

from serving import main

if __name__ == "__main__":
    main(threaded=True)
