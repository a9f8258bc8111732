"""The script of the double in its process mode."""

from serving import main

if __name__ == "__main__":
    main(threaded=False)
