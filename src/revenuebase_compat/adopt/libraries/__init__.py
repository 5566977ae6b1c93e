"""One module per HTTP library whose requests are moved."""
