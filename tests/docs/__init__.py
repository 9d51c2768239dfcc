"""The documentation is tested: its code runs, and its tables agree with the code."""
