"""``python -m onnxprune``."""

from onnxprune.app.cli import main

if __name__ == "__main__":
    main()
