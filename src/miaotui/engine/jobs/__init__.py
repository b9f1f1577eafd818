"""Jobs with results that come together: their promises of time, and the thread that does them."""
