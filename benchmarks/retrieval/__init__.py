"""Search by words and by meaning beside other libraries."""
