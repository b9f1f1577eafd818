"""Models that other programs have stored on this computer, found in their documented folders and run in place."""
