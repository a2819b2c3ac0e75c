"""The application: command line, recipes, runs and reports."""
