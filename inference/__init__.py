"""What is done with a model: fit, deblend, report, the command line."""
