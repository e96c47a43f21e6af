"""The workbench inside of training loops that are not ours."""
