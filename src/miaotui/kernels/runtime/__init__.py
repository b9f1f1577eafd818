"""Running a pass: compiling, the thread pool, meeting points, vectors and memory."""
