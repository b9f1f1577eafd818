"""Tasks over HTTP: labels, sentiments, and decisions in OpenAI's form and in System One's."""
