"""The recipe of the embedded models: its data, and one file for each stage of training."""
