"""What every command line here shares: the console, options, output files, the progress bar. No command is in it."""
