"""What all command lines share: the console, options, output files and the progress bar. It contains no command."""
