"""Tests of the documentation: its code runs, and its tables agree with the code."""
