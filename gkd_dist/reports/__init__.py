"""`gkd report`: run directories as one HTML page that needs nothing else."""
