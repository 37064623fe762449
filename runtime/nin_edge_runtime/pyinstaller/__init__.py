"""What PyInstaller needs to put this package into a program of one file."""
